"""A night's rows to its profile: narrow columns, batch by batch; no map is read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from mrkd import storage
from mrkd.data.images import STATISTICS
from mrkd.errors import ArtefactError, StorageError
from mrkd.nights.drift.profile import (
    FILE,
    MAX_SIZES,
    QUANTITIES,
    Profile,
    ProfileGroup,
    quantiles,
    read,
)
from mrkd.nights.manifest import Manifest, open_night, read_manifests, readable, revisions_in

_SIZE = ("image_height", "image_width")
_COLUMNS = ["category", "attributes", "is_anomalous", "error_kind", *_SIZE, *QUANTITIES]


def store(night_uri: str) -> Profile:
    """Measures a night and puts its profile; errors as `measure`, or it cannot be written."""
    profile = measure(night_uri)
    storage.write(storage.join(night_uri, FILE), profile.to_parquet())
    return profile


def current(night_uri: str) -> Profile:
    """The stored profile of a night's newest revision, measured and stored where there is none."""
    newest = max(revisions_in(storage.join(night_uri, "manifests")), default=0)
    try:
        profile = read(night_uri)
    except (StorageError, ArtefactError):
        return store(night_uri)
    return profile if profile.revision == newest else store(night_uri)


def measure(night_uri: str) -> Profile:
    """The profile of a night's rows that count.

    Of an image some 40 bytes are held; a million images take 12 s of one core.

    Raises:
        NightError: no revision is closed.
        StorageError: its rows cannot be read.
    """
    found: dict[str, list[pa.RecordBatch]] = defaultdict(list)
    # Uncached: pyarrow keeps 100 KB of each file's footer, which no one reads again.
    with readable(night_uri):
        scanner = open_night(night_uri).scanner(columns=_COLUMNS, cache_metadata=False)
        for batch in scanner.to_batches():
            if batch.num_rows:  # all of one file, and so of one category
                found[batch["category"][0].as_py()].append(_narrow(batch))
    manifests = read_manifests(night_uri)
    return Profile(
        run=manifests[-1].run,
        revision=manifests[-1].revision,
        began_at=manifests[0].closed_at,
        closed_at=manifests[-1].closed_at,
        models=str(manifests[0].config.get("models", "")),
        groups=tuple(
            group
            for category in sorted(found)
            for group in _groups(category, pa.Table.from_batches(found[category]), manifests)
        ),
    )


def lines_of(batch: pa.RecordBatch) -> pa.Array:
    """The line of each row; empty where it has none."""
    return pc.fill_null(pc.map_lookup(batch["attributes"], "line", "first"), "")


def _narrow(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The line instead of all attributes, and kinds as plain text: each file numbers its own."""
    columns = {name: batch[name] for name in _COLUMNS[2:]}
    columns["error_kind"] = batch["error_kind"].cast(pa.string())
    return pa.RecordBatch.from_pydict({"line": lines_of(batch), **columns})


def _groups(category: str, rows: pa.Table, manifests: Sequence[Manifest]) -> Iterator[ProfileGroup]:
    pins = [manifest.pins[category] for manifest in manifests if manifest.pins.get(category)]
    pin = pins[-1] if pins else None
    for line in sorted(pc.unique(rows["line"]).to_pylist()):
        own = rows.filter(pc.field("line") == line)
        scored = own.filter(pc.field("is_anomalous").is_valid())
        good = scored.filter(~pc.field("is_anomalous"))
        values = {name: scored[name] for name in STATISTICS} | {"image_score": good["image_score"]}
        arrays = {name: column.drop_null().to_numpy() for name, column in values.items()}
        yield ProfileGroup(
            category=category,
            line=line,
            num_images=own.num_rows,
            num_ok=good.num_rows,
            num_nok=scored.num_rows - good.num_rows,
            errors=dict(sorted(_count(own["error_kind"].drop_null()).items())),
            quantiles={name: quantiles(array) for name, array in arrays.items() if len(array)},
            sizes=dict(_count(_sizes(scored)).most_common(MAX_SIZES)),
            model_version=pin.version if pin else "",
            calibration=pin.calibration if pin else 0,
        )


def _sizes(rows: pa.Table) -> pa.ChunkedArray:
    height, width = (rows[name].cast(pa.string()) for name in _SIZE)
    return pc.binary_join_element_wise(height, width, "x").drop_null()


def _count(values: pa.ChunkedArray) -> Counter[str]:
    return Counter({one["values"]: one["counts"] for one in pc.value_counts(values).to_pylist()})
