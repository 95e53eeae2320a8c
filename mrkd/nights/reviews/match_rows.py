"""Matches images that have verdicts with their rows in nights."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mrkd import storage
from mrkd.nights.manifest import DECISION, Manifest, call_of
from mrkd.storage import schema

_COLUMNS = ["image_etag", "image_bytes", "revision", *DECISION]


@dataclass(frozen=True)
class Matched:
    """A row of a night that counts.

    Args:
        run: name of the night.
        category: category of the image.
        closed_at: time when the row's revision was closed, UTC, ISO 8601.
        tars: suffixes of the night's tars.
        row: row of `schema.SCORES`, without maps, regions and measures of the image.
    """

    run: str
    category: str
    closed_at: str
    tars: tuple[str, ...]
    row: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        """The image and the bytes of it that were scored, as `Review.key`."""
        return self.row["image_uri"], self.row["image_etag"] or ""

    @property
    def called(self) -> str:
        """OK, NOK or ERROR."""
        return call_of(self.row)


def rows_of(
    workspace: str, run: str, manifests: Sequence[Manifest], uris: Sequence[str]
) -> Iterator[Matched]:
    """The rows of a night's closed revisions that are of these images and not superseded.

    Only shards are read whose first and last URI have one of `uris`, which are sorted, in between;
    `manifests` are all of the night's.

    Raises:
        ArtefactError: a shard is damaged.
        StorageError: the night cannot be read.
    """
    folder = storage.join(workspace, "nights", run)
    replaced = {(row.image_uri, row.revision) for one in manifests for row in one.superseded}
    for manifest in manifests:
        for category, row in _rows(folder, manifest, uris):
            if (row["image_uri"], row["revision"]) not in replaced:
                yield Matched(run, category, manifest.closed_at, manifest.tars, row)


def _rows(
    folder: str, manifest: Manifest, uris: Sequence[str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for stored in manifest.shards:
        own = uris[bisect_left(uris, stored.first_uri) : bisect_right(uris, stored.last_uri)]
        if not own:
            continue
        place = storage.join(folder, "scores", stored.file)
        table = schema.from_parquet(storage.read(place), name=place, columns=_COLUMNS)
        among = pc.is_in(table["image_uri"], pa.array(own, pa.string()))
        for row in table.filter(among).to_pylist():
            yield stored.category, row
