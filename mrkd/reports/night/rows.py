"""The few rows of a night that its page shows, found in one pass over narrow columns.

A million rows are passed by, sixty are kept; maps are read from the files that hold these alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from mrkd import seeds
from mrkd.reports.kit.values import Row
from mrkd.storage import schema
from mrkd.storage.thread_map import in_threads

NUM_SHOWN = 20
"""Images of each kind: defective, borderline, for audit."""
_EXAMPLES = 5
_SCANNED = ["category", "image_uri", "image_score", "threshold", "is_anomalous", "error_kind"]
_SCANNED += ["error_message"]
_DRAWN = ["image_uri", "revision", "attributes", "image_etag", "image_bytes", "image_score"]
_DRAWN += ["image_height", "image_width", "p_value", "threshold", "is_anomalous", "regions"]
_DRAWN += schema.MAP_COLUMNS


@dataclass(frozen=True)
class Chosen:
    """A row to be shown, and the file that holds it."""

    margin: float
    category: str
    image_uri: str
    file: ds.Fragment = field(compare=False, hash=False)


@dataclass(frozen=True)
class ErrorKind:
    """Images without a score, for one reason.

    Args:
        kind: one of `schema.ERROR_KINDS`.
        count: number of images.
        categories: number of images by category, the most first.
        examples: rows of the first of them.
    """

    kind: str
    count: int
    categories: Mapping[str, int]
    examples: Sequence[Row]


@dataclass(frozen=True)
class Choice:
    """The rows that a page shows.

    Args:
        highest: called defective, each category's furthest above its threshold first.
        borderline: the nearest to their threshold.
        audit: good ones drawn at random.
        errors: errors by kind, the most frequent first.
    """

    highest: Sequence[Chosen]
    borderline: Sequence[Chosen]
    audit: Sequence[Chosen]
    errors: Sequence[ErrorKind]


def choose(rows: ds.Dataset, *, spreads: Mapping[str, float], num_ok: int, run: str) -> Choice:
    """Chooses what to show of a night.

    Args:
        rows: dataset of `open_night`.
        spreads: spread of the good parts' scores by category; in spreads a distance from a
            threshold means the same in all categories.
        num_ok: number of good images, of which those for audit are drawn.
        run: name of the night, which seeds the draw.
    """
    draw = seeds.stream(0, "audit", run)
    drawn = np.sort(draw.choice(num_ok, min(NUM_SHOWN, num_ok), replace=False))
    highest: dict[str, list[Chosen]] = {}
    borderline: list[Chosen] = []
    audit: list[Chosen] = []
    errors: dict[str, list[Row]] = {}
    counts: Counter[tuple[str, str]] = Counter()
    num_seen = 0
    # Uncached: pyarrow would keep 100 KB of each file's footer.
    for scanned in rows.scanner(columns=_SCANNED, cache_metadata=False).scan_batches():
        batch: pa.RecordBatch = scanned.record_batch
        if not batch.num_rows:
            continue
        category = batch["category"][0].as_py()
        _add_errors(batch, category, errors, counts)
        good = batch.filter(pc.is_valid(batch["is_anomalous"]))
        calls = good["is_anomalous"].to_numpy(zero_copy_only=False).astype(bool)
        spread = spreads.get(category, 1.0)
        margins = (_floats(good["image_score"]) - _floats(good["threshold"])) / spread
        take = partial(_take, good, margins, category, scanned.fragment)
        above = np.flatnonzero(calls)
        best = take(above[np.argsort(-margins[above], kind="stable")[:NUM_SHOWN]])
        highest[category] = _best([*highest.get(category, ()), *best], _furthest)
        near = np.argsort(np.abs(margins), kind="stable")[:NUM_SHOWN]
        borderline = _best([*borderline, *take(near)], _nearest)
        fine = np.flatnonzero(~calls)
        inside = (drawn >= num_seen) & (drawn < num_seen + len(fine))
        audit += take(fine[drawn[inside] - num_seen])
        num_seen += len(fine)
    ranked = sorted(
        (rank, *_furthest(one), one) for own in highest.values() for rank, one in enumerate(own)
    )
    return Choice(
        [one for *_, one in ranked[:NUM_SHOWN]],
        borderline,
        sorted(audit, key=lambda one: (one.category, one.image_uri)),
        _kinds(errors, counts),
    )


def read_rows(chosen: Iterable[Chosen], columns: pa.Schema) -> dict[str, Row]:
    """Whole rows by URI, with their maps.

    Args:
        chosen: chosen rows, any number of times each.
        columns: schema of the night's rows.
    """
    wanted: dict[str, tuple[ds.Fragment, list[str]]] = {}
    for one in dict.fromkeys(chosen):
        wanted.setdefault(one.file.path, (one.file, []))[1].append(one.image_uri)

    def read(file: tuple[ds.Fragment, list[str]]) -> list[Row]:
        fragment, uris = file
        own = pc.field("image_uri").isin(uris)
        table = fragment.to_table(schema=columns, columns=_DRAWN, filter=own)
        return list(table.to_pylist())

    return {row["image_uri"]: row for rows in in_threads(read, wanted.values()) for row in rows}


def _take(
    rows: pa.RecordBatch,
    margins: NDArray[np.float64],
    category: str,
    file: ds.Fragment,
    numbers: NDArray[np.intp],
) -> list[Chosen]:
    uris = rows["image_uri"]
    return [Chosen(float(margins[n]), category, uris[int(n)].as_py(), file) for n in numbers]


def _furthest(one: Chosen) -> tuple[float, str]:
    return -one.margin, one.image_uri


def _nearest(one: Chosen) -> tuple[float, str]:
    return abs(one.margin), one.image_uri


def _best(found: list[Chosen], order: Any) -> list[Chosen]:
    return sorted(found, key=order)[:NUM_SHOWN]


def _floats(column: pa.Array) -> NDArray[np.float64]:
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)


def _add_errors(
    batch: pa.RecordBatch,
    category: str,
    errors: dict[str, list[Row]],
    counts: Counter[tuple[str, str]],
) -> None:
    kinds = batch["error_kind"].cast(pa.string())
    if kinds.null_count == batch.num_rows:
        return
    for kind in pc.unique(kinds.drop_null()).to_pylist():
        failed = batch.filter(pc.equal(kinds, kind)).select(["image_uri", "error_message"])
        counts[kind, category] += failed.num_rows
        own = errors.setdefault(kind, [])
        own += [{"error_kind": kind, **row} for row in failed[: _EXAMPLES - len(own)].to_pylist()]


def _kinds(
    errors: Mapping[str, Sequence[Row]], counts: Counter[tuple[str, str]]
) -> list[ErrorKind]:
    totals: Counter[str] = Counter()
    for (kind, _), count in counts.items():
        totals[kind] += count
    return [
        ErrorKind(
            kind,
            total,
            {category: n for (k, category), n in counts.most_common() if k == kind},
            errors.get(kind, ()),
        )
        for kind, total in totals.most_common()
    ]
