"""The units of work of a night, and the models that score them."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mrkd.config import RowsConfig
from mrkd.nights.archive import UNMATCHED
from mrkd.storage import schema

_SHARD_PIXELS = 9 * 2**20
"""Bytes that the images of a shard take, decoded: there are several shards in each one's hands."""
_DECODED = 16
"""Times that an image cut into overlapping tiles is larger, decoded, than its file as a JPEG."""


@dataclass(frozen=True)
class Pin:
    """The model that scores a category for a whole revision, whatever is promoted meanwhile.

    Args:
        version: version of the model.
        calibration: number of the version's calibration.
        teacher: name and digest, as the rows hold it.
        pixels: bytes of an image, decoded; 0: it is cut into tiles, and only reading tells.
    """

    version: str
    calibration: int
    teacher: str
    pixels: int = 0


@dataclass(frozen=True)
class Shard:
    """A unit of work: images of one category, scored together and stored as one file.

    Args:
        id: hash of all that decides the file's rows.
        category: category of every image.
        revision: number of the plan.
        pin: the model; None where the category has none, see `without_model`.
        rows: its part of the plan (`schema.PLAN`), sorted by URI.
    """

    id: str
    category: str
    revision: int
    pin: Pin | None
    rows: pa.Table

    def __getstate__(self) -> dict[str, Any]:
        # All shards of a night wait in the object store, which every worker maps: 99,000 rows of
        # a plan take 3.5 MB of it instead of 23.5.
        return {**self.__dict__, "rows": zlib.compress(pickle.dumps(self.rows), 1)}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state, rows=pickle.loads(zlib.decompress(state["rows"])))

    @property
    def file(self) -> str:
        """The name of its file below the night's `scores`."""
        return f"category={self.category}/shard-{self.id}.parquet"

    def error_table(self, kind: str, message: str) -> pa.Table:
        """One row (`schema.SCORES`) for each image: it was not scored, and why.

        An image whose error was known when it was planned keeps that one. The kind is one of
        `schema.ERROR_KINDS`, the message one line that says what to do.
        """
        common: dict[str, Any] = {"error_kind": kind, "error_message": message}
        if self.pin is not None:
            common |= {"model_version": self.pin.version, "calibration": self.pin.calibration}
            common |= {"teacher": self.pin.teacher}
        shared = ["image_uri", "revision", "attributes", "image_etag", "image_bytes"]
        known = ["error_kind", "error_message"]
        rows = [
            {name: row[name] for name in shared}
            | common
            | {name: row[name] for name in known if row["error_kind"] is not None}
            for row in self.rows.select([*shared, *known]).to_pylist()
        ]
        return schema.score_table(rows, category=self.category, metadata={})

    def without_model(self) -> pa.Table:
        """The rows of a shard for whose category there was no model."""
        reason = f"category {self.category!r} had no model when the night was planned: train it"
        if self.category == UNMATCHED:
            reason = NO_CATEGORY.format("its key")
        return self.error_table("no_model", f"{reason}, then score it in a new run")


NO_CATEGORY = (
    "archive.template finds no category in {}, or one with other characters than letters, digits, "
    "'.', '_' and '-': correct the template, or rename the folder"
)


def cuts(
    rows: pa.Table, config: RowsConfig, pins: Mapping[str, Pin | None], *, batch_size: int
) -> Iterator[tuple[int, int]]:
    """Start and end of each shard: one category, bounded by count and, if not alone, by bytes.

    By pixels in whole batches, and one at least: what pads the last batch is scored for nothing.
    """
    pixels = {name: pin.pixels for name, pin in pins.items() if pin}
    most = {
        name: min(config.shard_rows, batch_size * max(1, _SHARD_PIXELS // (size * batch_size)))
        for name, size in pixels.items()
        if size
    }
    start, num_bytes, last = 0, 0, None
    categories, sizes = rows["category"].to_pylist(), rows["image_bytes"].to_pylist()
    for n, (category, known) in enumerate(zip(categories, sizes, strict=True)):
        size = known or 0  # a manifest may not say it
        if pixels.get(category) == 0:
            size *= _DECODED
        full = n - start == most.get(category, config.shard_rows)
        full = full or num_bytes + size > config.shard_bytes
        if n > start and (full or category != last):
            yield start, n
            start, num_bytes = n, 0
        num_bytes += size
        last = category
    yield start, len(categories)


def most_pixels(shards: Iterable[Shard], config: RowsConfig) -> int:
    """Bytes of the shard whose images take the most, decoded; tiles by the guess of `cuts`."""
    sizes = (len(one.rows) * one.pin.pixels or config.shard_bytes for one in shards if one.pin)
    return max(sizes, default=0)
