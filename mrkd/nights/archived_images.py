"""Bytes of scored images and of tars' members, where the archive still holds them unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mrkd import storage
from mrkd.errors import StorageError
from mrkd.nights import archive
from mrkd.storage.thread_map import in_threads

Row = Mapping[str, Any]


def read_images(
    night_uri: str, rows: Iterable[Row], tars: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    """URI and bytes of each image that still is what was scored; the others are left out.

    Args:
        night_uri: the night's folder, whose plans know where in its tar a member lies.
        rows: `schema.SCORES`; `image_uri`, `image_etag`, `image_bytes` and `revision` are used.
        tars: the archive's suffixes of tars.
    """
    rows = list(rows)
    offsets = _offsets(night_uri, [row for row in rows if "#" in row["image_uri"]])
    members = [
        {**row, "offset": offsets[row["image_uri"]]} for row in rows if row["image_uri"] in offsets
    ]
    for member, found in archive.read_members(members, tars):
        if not isinstance(found, StorageError):
            yield member["image_uri"], found.data

    def fetch(row: Row) -> bytes | None:
        try:
            return storage.fetch(row["image_uri"], if_match=row["image_etag"]).data
        except StorageError:
            return None

    others = [row for row in rows if row["image_uri"] not in offsets]
    for row, data in zip(others, in_threads(fetch, others), strict=True):
        if data is not None:
            yield row["image_uri"], data


def _offsets(night_uri: str, rows: Sequence[Row]) -> dict[str, int]:
    """Where the members among these rows begin in their tars, by URI."""
    import pyarrow.dataset as ds  # not above: it loads pandas

    found: dict[str, int] = {}
    for revision in sorted({row["revision"] for row in rows}):
        uris = [row["image_uri"] for row in rows if row["revision"] == revision]
        plan_uri = storage.join(night_uri, "plans", f"plan-{revision}.parquet")
        filesystem, path = storage.open_uri(plan_uri)
        plan = ds.dataset(path, filesystem=filesystem, format="parquet")
        among = pc.field("image_uri").isin(uris) & pc.field("offset").is_valid()
        try:
            table = plan.to_table(columns=["image_uri", "offset"], filter=among)
        except (OSError, pa.ArrowException):
            continue  # the images of a plan that is gone are left out
        found |= zip(*(column.to_pylist() for column in table.columns), strict=True)
    return found
