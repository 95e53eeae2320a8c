"""How fast nights are, what memory they take and what their rows weigh."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from mrkd import storage
from mrkd.nights.manifest import open_night, read_manifests
from mrkd.storage import schema
from tests.support import night_runs as runs
from tests.support.night_proofs import NIGHT, Figures, Place, asked, figures_of


def pace(place: Place, sizes: Sequence[int] = (2000, 10_000, 100_000)) -> Figures:
    """Speed does not fall and memory does not grow with the archive.

    Nights over manifests of the images of `night` that have a score, so that nothing but their
    number differs.
    """
    found: Figures = {}
    for size in sizes:
        run = f"pace-{size}-{time.time_ns()}"
        raw = {"archive.uri": "", "archive.manifest": clean_manifest(place, size)}
        config = place.night(place.archive(), run, **raw)
        done = runs.start(config, place.folder / run, every_s=0.2 if size <= 2000 else 1.0)
        assert done.code == 0, done.log[-3000:]
        night_uri = storage.join(place.workspace, "nights", run)
        found[str(size)] = {
            "rows": open_night(night_uri).count_rows(),
            **figures_of(done),
            "bytes_per_row": bytes_per_clean_row(night_uri),
            **asked(night_uri),
        }
    return found


def clean_manifest(place: Place, size: int) -> str:
    """URI of a manifest of images that can be scored, each category in its share."""
    archive = place.archive()
    plan_uri = storage.join(place.workspace, "nights", NIGHT, "plans", "plan-1.parquet")
    planned = schema.from_parquet(storage.read(plan_uri))
    good = pa.array(archive.uris("scored"))
    planned = planned.filter(pc.is_in(planned["image_uri"], good))
    share = min(1.0, size / planned.num_rows)
    parts = []
    for name in pc.unique(planned["category"]):
        some = planned.filter(pc.equal(planned["category"], name))
        parts.append(some.slice(0, max(1, round(share * some.num_rows))))
    columns = ["image_uri", "image_etag", "image_bytes", "category", "offset"]
    uri = storage.join(place.base, "manifests", f"clean-{size}.parquet")
    storage.write(uri, schema.to_parquet(pa.concat_tables(parts).select(columns)))
    return uri


def bytes_per_clean_row(night_uri: str) -> float:
    """Of the files all of whose rows have a score."""
    sizes = {
        file.uri.partition("/scores/")[2]: file.num_bytes
        for file in storage.list_files(storage.join(night_uri, "scores"))
    }
    clean = [
        stored
        for manifest in read_manifests(night_uri)
        for stored in manifest.shards
        if stored.counts.keys() <= {"ok", "nok"}
    ]
    return sum(sizes[stored.file] for stored in clean) / sum(stored.rows for stored in clean)
