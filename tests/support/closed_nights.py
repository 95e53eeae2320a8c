"""A closed night of made-up rows: its shards and manifests, without plans and without a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mrkd import storage
from mrkd.nights.manifest import Manifest, Stored, Superseded
from mrkd.storage import schema

Row = dict[str, Any]


def scored(uri: str, score: float, *, category: str = "plate", **values: Any) -> Row:
    """A row whose threshold is 0.5; attributes may be a dict."""
    threshold = values.get("threshold", 0.5)
    row = {
        "category": category,
        "image_uri": uri,
        "image_etag": "e1",
        "image_score": score,
        "p_value": max(0.0, 1 - score),
        "threshold": threshold,
        "is_anomalous": score > threshold,
        "image_height": 64,
        "image_width": 64,
        "model_version": "v1",
        "calibration": 1,
        "teacher": "resnet18-0123456789ab",
        "attributes": {},
        **values,
    }
    row["attributes"] = list(row["attributes"].items())
    return row


def failed(uri: str, kind: str = "decode", *, category: str = "plate", **values: Any) -> Row:
    """A row without a score."""
    row = scored(uri, 0.0, category=category, **values)
    for name in ("image_score", "p_value", "threshold", "is_anomalous"):
        row[name] = None
    return row | {"error_kind": kind, "error_message": "it is damaged: send it again"}


def write_night(workspace: str, run: str, *revisions: Sequence[Row]) -> str:
    """Writes a night of these revisions and returns its URI.

    A row whose image an earlier revision has replaces that one's.
    """
    uri = storage.join(str(workspace), "nights", run)
    held: dict[str, int] = {}
    for revision, rows in enumerate(revisions, 1):
        uris = [row["image_uri"] for row in rows]
        replaced = [Superseded(name, held[name]) for name in uris if name in held]
        held |= dict.fromkeys(uris, revision)
        shards = []
        for category in sorted({row["category"] for row in rows}):
            own = [row for row in rows if row["category"] == category]
            shards.append(_write_shard(uri, category, revision, own))
        counts = sum((Counter(shard.counts) for shard in shards), Counter())
        manifest = Manifest(
            run=run,
            revision=revision,
            rows=len(rows),
            counts=dict(counts),
            shards=tuple(shards),
            pins={},
            superseded=tuple(replaced),
            config={},
            closed_at="2026-11-23T04:00:00+00:00",
        )
        name = storage.join(uri, "manifests", f"manifest-{revision}.json")
        storage.write_json(name, asdict(manifest))
    return uri


def _write_shard(uri: str, category: str, revision: int, rows: Sequence[Row]) -> Stored:
    values = [{k: v for k, v in row.items() if k != "category"} for row in rows]
    values = [row | {"revision": revision} for row in values]
    table = schema.score_table(values, category=category, metadata={})
    file = f"category={category}/shard-{revision}.parquet"
    storage.write(storage.join(uri, "scores", file), schema.to_parquet(table))
    kinds = Counter(r.get("error_kind") or ("nok" if r["is_anomalous"] else "ok") for r in rows)
    uris = table["image_uri"].to_pylist()
    return Stored(file, category, len(rows), uris[0], uris[-1], dict(kinds), "")
