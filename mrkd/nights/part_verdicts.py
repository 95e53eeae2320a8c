"""One verdict for each part of which a night holds several views.

A part is the images of one category whose `part` attribute, a field of the archive's template, is
the same; `view` tells them apart. The worst view decides: NOK over ERROR over OK, as a part that
shows a defect is defective whatever its other views say, and one that was not seen whole is never
good.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset as ds

from mrkd import storage
from mrkd.config import PartsConfig
from mrkd.nights.manifest import DECISION, categories_of, open_night, read_manifests, readable
from mrkd.storage import schema

log = logging.getLogger(__name__)

PARTS_VERSION = 1

PARTS = pa.schema(
    [
        pa.field("category", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), metadata={"doc": "OK, NOK or ERROR"}),
        pa.field("reason", pa.string(), metadata={"doc": "why it is not OK, one line"}),
        pa.field("image_uri", pa.string(), metadata={"doc": "of its worst view"}),
        pa.field("view", pa.string(), metadata={"doc": "the worst; null where views have no name"}),
        pa.field("image_score", pa.float32(), metadata={"doc": "of the worst; null for an error"}),
        pa.field("num_views", pa.int32(), metadata={"doc": "different ones, else images"}),
        pa.field("missing_views", pa.list_(pa.string()), metadata={"doc": "expected, not there"}),
    ],
    metadata={"schema": "mrkd.parts", "schema_version": str(PARTS_VERSION)},
)
"""Rows of `parts.parquet`, by category, then part."""

_AT_ONCE = 16_384
_OK, _ERROR, _NOK = 0, 1, 2
_VERDICTS = ("OK", "ERROR", "NOK")
_COLUMNS = (*DECISION, "attributes", "p_value", "error_message")
# The worst view of a part first; among defective ones the rarest score, then the highest.
_WORST_FIRST = [
    ("part", "ascending"),
    ("severity", "descending"),
    ("p_value", "ascending"),
    ("excess", "descending"),
    ("image_uri", "ascending"),
]


def store(night_uri: str, config: PartsConfig) -> dict[str, str]:
    """Writes `parts.parquet`, and `parts.csv` for the plant's own system, into a night's folder.

    Both are written anew whenever a revision is closed: a late view may change a verdict.

    Returns:
        URIs of what was written, `parts` and `parts_csv`; none where no image names a part.

    Raises:
        NightError: the night is not closed.
        StorageError: it cannot be read or written.
    """
    table = part_table(night_uri, config.views)
    if table is None:
        return {}
    uris = {
        "parts": storage.join(night_uri, "parts.parquet"),
        "parts_csv": storage.join(night_uri, "parts.csv"),
    }
    storage.write(uris["parts"], schema.to_parquet(table))
    storage.write(uris["parts_csv"], _csv(table))
    log.info("parts uri=%s counts=%s", uris["parts"], counts(table))
    return uris


def part_table(night_uri: str, views: Sequence[str] = ()) -> pa.Table | None:
    """The parts of a night and their verdicts (`PARTS`); None where no image names a part.

    A part without one of `views` is ERROR, unless NOK. Without any, the views seen in its category
    are expected, and one that a part lacks is only named.

    Raises:
        NightError: the night is not closed.
        StorageError: it cannot be read.
    """
    rows = open_night(night_uri)
    tables, nameless = [], 0
    # One category at a time: memory holds the largest, not the night.
    for category in categories_of(read_manifests(night_uri)):
        with readable(night_uri):
            images = _images(rows, category)
        named = images.filter(pc.is_valid(images["part"]))
        nameless += images.num_rows - named.num_rows
        if named.num_rows:
            tables.append(_category(category, named, views))
    if not tables:
        if views:
            log.warning("no_parts reason=no image has an attribute part; parts.views is unused")
        return None
    if nameless:
        log.warning("images_without_part num=%d", nameless)
    facts = {"images_without_part": str(nameless)}
    return pa.concat_tables(tables).replace_schema_metadata({**(PARTS.metadata or {}), **facts})


def counts(table: pa.Table) -> dict[str, int]:
    """Number of parts with each verdict, and of those that lack a view."""
    verdicts = Counter(table["verdict"].to_pylist())
    incomplete = pc.sum(pc.greater(pc.list_value_length(table["missing_views"]), 0)).as_py() or 0
    return {**{name: verdicts[name] for name in ("OK", "NOK", "ERROR")}, "incomplete": incomplete}


def _images(rows: ds.Dataset, category: str) -> pa.Table:
    """The images of a category with their part, their view, and how bad each is."""
    table = rows.to_table(columns=list(_COLUMNS), filter=pc.field("category") == category)
    attributes = table["attributes"]
    for name in ("part", "view"):
        values = pc.map_lookup(attributes, pa.scalar(name), "first")
        # An empty cell of a manifest names nothing.
        values = pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)
        table = table.append_column(name, values)
    failed = pc.is_valid(table["error_kind"])
    scored = pc.if_else(pc.fill_null(table["is_anomalous"], False), _NOK, _OK)
    table = table.append_column("severity", pc.if_else(failed, _ERROR, scored))
    excess = pc.subtract(table["image_score"], table["threshold"])
    return table.drop_columns(["attributes"]).append_column("excess", excess)


def _category(category: str, images: pa.Table, views: Sequence[str]) -> pa.Table:
    """The parts of one category, from its images that name one."""
    expected = list(views) or sorted(pc.unique(images["view"].drop_null()).to_pylist())
    images = images.sort_by(_WORST_FIRST)
    # In the order of the rows, so that the first of each part is its worst.
    groups = images.group_by("part", use_threads=False).aggregate(
        [("view", "distinct"), ("severity", "count")]
    )
    num_images = groups["severity_count"]
    worst = images.take(pc.subtract(pc.cumulative_sum(num_images), num_images))
    worst = worst.append_column("views", groups["view_distinct"])
    worst = worst.append_column("num_images", num_images)
    tables = []
    # As Python objects a million parts would take two gigabytes.
    for some in worst.to_batches(max_chunksize=_AT_ONCE):
        parts = [_part(row, expected, needed=bool(views)) for row in some.to_pylist()]
        rows = [{"category": category, **part} for part in parts]
        tables.append(pa.Table.from_pylist(rows, schema=PARTS))
    return pa.concat_tables(tables)


def _part(row: dict[str, Any], expected: list[str], *, needed: bool) -> dict[str, Any]:
    """A part by its worst image, with all its `views` and its `num_images`."""
    views = row["views"]
    missing = [view for view in expected if view not in views]
    severity, reason = row["severity"], None
    if severity == _NOK:
        reason = f"image_score {row['image_score']:.4g} above threshold {row['threshold']:.4g}"
    elif severity == _ERROR:
        reason = f"{row['error_kind']}: {row['error_message']}"
    shown = {name: row[name] for name in ("image_uri", "view", "image_score")}
    if missing and needed and severity == _OK:
        severity, shown = _ERROR, {}
        reason = f"no image of view {', '.join(missing)}: photograph the part again"
    return {
        "part": row["part"],
        "verdict": _VERDICTS[severity],
        "reason": reason,
        **shown,
        "num_views": len(views) or row["num_images"],
        "missing_views": missing,
    }


def _csv(table: pa.Table) -> bytes:
    """The parts as CSV in UTF-8 with a header; missing views are joined by semicolons."""
    missing = pc.binary_join(table["missing_views"], ";")
    place = table.schema.get_field_index("missing_views")
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(table.set_column(place, "missing_views", missing), sink)
    return bytes(sink.getvalue())
