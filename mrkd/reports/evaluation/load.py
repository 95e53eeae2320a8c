"""What the page of an evaluation shows, read from its folder: rows, and the images they name.

Nothing is scored again. Maps and regions are read for the rows that become pictures alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from mrkd import storage
from mrkd.nights.manifest import open_night, readable
from mrkd.reports.evaluation.values import Archive, Category, PageData
from mrkd.reports.kit import read as stored
from mrkd.reports.kit.values import ImageError, LeakPair, MetricRow, Model, Picture
from mrkd.storage import schema

RECORD = "evaluation.json"
EVALUATION_VERSION = 2

_ERRORS_SHOWN = 50

_ROW = ["image_uri", "image_score", "error_kind", "error_message"]
_LABELS = ["category", "gt_label", "defect", "headline"]
_DRAWN = ["p_value", "is_anomalous", "image_height", "image_width", "regions", "gt_mask_uri"]


def load_page_data(evaluation_uri: str, *, night_uri: str = "") -> PageData:
    """Everything that the page of an evaluation shows.

    Args:
        evaluation_uri: `<workspace>/evaluations/<run>`.
        night_uri: `<workspace>/nights/<run>` of a night to show beside it; empty: none.

    Raises:
        StorageError: a file of the evaluation cannot be read.
        ArtefactError: one is damaged, or of a newer mrkd.
        NightError: the night is not closed.
    """
    record = stored.record(
        storage.join(evaluation_uri, RECORD), version=EVALUATION_VERSION, advice="evaluate again"
    )
    metrics_uri = storage.join(evaluation_uri, "metrics.parquet")
    metrics = schema.from_parquet(storage.read(metrics_uri), name=metrics_uri)
    filesystem, path = storage.open_uri(storage.join(evaluation_uri, "scores.parquet"))
    scores = ds.dataset(path, filesystem=filesystem, format="parquet")
    rows = scores.to_table(columns=_ROW + _LABELS)
    facts = record["categories"]
    leaks = None
    if record["config"].get("check_leaks"):
        leaks_uri = storage.join(evaluation_uri, "leaks.parquet")
        leaks = schema.from_parquet(storage.read(leaks_uri), name=leaks_uri)
    operating_uri = storage.join(evaluation_uri, "operating.parquet")
    operating = schema.from_parquet(storage.read(operating_uri), name=operating_uri)
    # Of each kind, the highest and the nearest: more categories than pictures have figures alone.
    in_all = stored.PICTURES_IN_ALL // max(len(facts), 1)
    num_pictures = min(stored.PICTURES_PER_CATEGORY, in_all)
    return PageData(
        run=record["run"],
        scored_at=(scores.schema.metadata or {}).get(b"scored_at", b"").decode(),
        part=record["config"]["part"],
        root=record["config"]["data"]["root"],
        categories=tuple(
            _category(name, facts[name], metrics, operating, rows, scores, leaks, num_pictures)
            for name in sorted(facts)
        ),
        config=record["config"],
        archive=_archive(night_uri) if night_uri else None,
    )


def _category(
    name: str,
    facts: Mapping[str, Any],
    metrics: pa.Table,
    operating: pa.Table,
    rows: pa.Table,
    scores: ds.Dataset,
    leaks: pa.Table | None,
    num_pictures: int,
) -> Category:
    if facts["status"] == "failed":
        return Category(name, failure=facts["reason"])
    model = Model(**{key: facts[key] for key in _MODEL})
    own = rows.filter(pc.field("category") == name)
    scored = own.filter(pc.field("error_kind").is_null())
    image_scores = scored["image_score"].to_numpy()
    highest = np.argsort(-image_scores, kind="stable")[:num_pictures]
    distance = np.abs(image_scores - np.float32(model.threshold))
    nearest = np.argsort(distance, kind="stable")[:num_pictures]
    uris = scored["image_uri"].to_pylist()
    pairs = None if leaks is None else leaks.filter(pc.field("category") == name)
    drawn = _pictures(name, facts, scores, [uris[n] for n in {*highest, *nearest}])
    return Category(
        name,
        model=model,
        metrics=tuple(
            MetricRow(**{key: row[key] for key in _METRIC})
            for row in metrics.filter(pc.field("category") == name).to_pylist()
        ),
        scores=image_scores,
        gt_labels=scored["gt_label"].to_numpy(),
        headline=scored["headline"].to_numpy(zero_copy_only=False),
        defects=np.array(scored["defect"].to_pylist(), dtype=np.object_),
        errors=_errors(own.filter(pc.field("error_kind").is_valid())),
        highest=tuple(drawn[uris[n]] for n in highest),
        nearest=tuple(drawn[uris[n]] for n in nearest),
        leaks=() if pairs is None else _leaks(pairs.slice(0, num_pictures)),
        num_leaks=None if pairs is None else pairs.num_rows,
        operating=tuple(operating.filter(pc.field("category") == name).to_pylist()),
    )


_MODEL = tuple(Model.__dataclass_fields__)
_METRIC = tuple(MetricRow.__dataclass_fields__)


def _pictures(
    category: str, facts: Mapping[str, Any], scores: ds.Dataset, uris: list[str]
) -> dict[str, Picture]:
    chosen = (pc.field("category") == category) & pc.field("image_uri").isin(uris)
    columns = _ROW[:2] + _LABELS[1:] + _DRAWN + [*schema.MAP_COLUMNS]
    table = scores.to_table(columns=columns, filter=chosen)
    size, resize = facts["image_size"], facts["resize"]
    return {
        row["image_uri"]: stored.picture(row, image_size=size, resize=resize)
        for row in table.to_pylist()
    }


def _leaks(rows: pa.Table) -> tuple[LeakPair, ...]:
    return tuple(
        LeakPair(
            row["image_uri"],
            row["training_uri"],
            row["similarity"],
            stored.thumbnail(row["image_uri"]),
            stored.thumbnail(row["training_uri"]),
        )
        for row in rows.to_pylist()
    )


def _errors(rows: pa.Table) -> tuple[ImageError, ...]:
    first = rows.select(["image_uri", "error_kind", "error_message"]).slice(0, _ERRORS_SHOWN)
    return tuple(
        ImageError(row["image_uri"], row["error_kind"], row["error_message"])
        for row in first.to_pylist()
    )


def _archive(night_uri: str) -> Archive:
    columns = ["category", "image_uri", "is_anomalous", "error_kind", "error_message"]
    with readable(night_uri):
        rows = open_night(night_uri).to_table(columns=columns)
    errors = rows.filter(pc.field("error_kind").is_valid())
    calls = Counter(
        zip(rows["category"].to_pylist(), rows["is_anomalous"].to_pylist(), strict=True)
    )
    return Archive(
        run=night_uri.rstrip("/").rpartition("/")[2],
        counts={
            name: (calls[name, False], calls[name, True], calls[name, None])
            for name in sorted({category for category, _ in calls})
        },
        errors=_errors(errors),
        num_errors=dict(sorted(Counter(errors["error_kind"].to_pylist()).items())),
    )
