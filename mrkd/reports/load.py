"""What the page shows, read from an evaluation's folder: stored rows, and the images they name.

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
from numpy.typing import NDArray

from mrkd import datasets, images, schema, storage
from mrkd.errors import ArtefactError, ImageDecodeError, StorageError
from mrkd.images import Geometry
from mrkd.manifests import open_night
from mrkd.reports import pictures
from mrkd.reports.content import (
    Archive,
    Box,
    Category,
    ImageError,
    MetricRow,
    Model,
    PageData,
    Picture,
)

EVALUATION_VERSION = 1

# Of each kind, the highest and the nearest. 240 of each are at most 12 MB of page; a fleet of more
# than 240 categories has a page of figures alone.
_PICTURES_PER_CATEGORY = 12
_PICTURES_IN_ALL = 240
_ERRORS_SHOWN = 50

_ROW = ["image_uri", "image_score", "error_kind", "error_message"]
_LABELS = ["category", "gt_label", "defect", "headline"]
_DRAWN = ["p_value", "is_anomalous", "image_height", "image_width", "regions", "gt_mask_uri"]
_MAP = ["anomaly_map", "map_height", "map_width", "map_dtype", "map_min", "map_max"]


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
    record = _read_record(storage.join(evaluation_uri, "evaluation.json"))
    metrics_uri = storage.join(evaluation_uri, "metrics.parquet")
    metrics = schema.from_parquet(storage.read(metrics_uri), name=metrics_uri)
    filesystem, path = storage.open_uri(storage.join(evaluation_uri, "scores.parquet"))
    scores = ds.dataset(path, filesystem=filesystem, format="parquet")
    rows = scores.to_table(columns=_ROW + _LABELS)
    facts = record["categories"]
    num_pictures = min(_PICTURES_PER_CATEGORY, _PICTURES_IN_ALL // max(len(facts), 1))
    return PageData(
        run=record["run"],
        scored_at=(scores.schema.metadata or {}).get(b"scored_at", b"").decode(),
        part=record["config"]["part"],
        root=record["config"]["data"]["root"],
        categories=tuple(
            _category(name, facts[name], metrics, rows, scores, num_pictures)
            for name in sorted(facts)
        ),
        config=record["config"],
        archive=_archive(night_uri) if night_uri else None,
    )


def _read_record(uri: str) -> dict[str, Any]:
    record: dict[str, Any] = storage.read_json(uri)
    if record.get("schema") != EVALUATION_VERSION:
        raise ArtefactError(
            f"{uri} has schema {record.get('schema')!r}, this version of mrkd reads "
            f"{EVALUATION_VERSION}: evaluate again"
        )
    return record


def _category(
    name: str,
    facts: Mapping[str, Any],
    metrics: pa.Table,
    rows: pa.Table,
    scores: ds.Dataset,
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
    )


_MODEL = tuple(Model.__dataclass_fields__)
_METRIC = tuple(MetricRow.__dataclass_fields__)


def _pictures(
    category: str, facts: Mapping[str, Any], scores: ds.Dataset, uris: list[str]
) -> dict[str, Picture]:
    chosen = (pc.field("category") == category) & pc.field("image_uri").isin(uris)
    columns = _ROW[:2] + _LABELS[1:] + _DRAWN + _MAP
    table = scores.to_table(columns=columns, filter=chosen)
    return {row["image_uri"]: _picture(row, facts) for row in table.to_pylist()}


def _picture(row: Mapping[str, Any], facts: Mapping[str, Any]) -> Picture:
    original = (row["image_height"], row["image_width"])
    geometry = Geometry(original, (facts["image_size"],) * 2, facts["resize"])
    rgb = _read(row["image_uri"])
    gt_mask = _read(row["gt_mask_uri"]) if row["gt_mask_uri"] else None
    return Picture(
        image_uri=row["image_uri"],
        image_score=row["image_score"],
        p_value=row["p_value"],
        is_anomalous=row["is_anomalous"],
        height=original[0],
        width=original[1],
        gt_label=row["gt_label"],
        defect=row["defect"],
        headline=row["headline"],
        pixels=None if rgb is None else pictures.thumbnail(rgb),
        anomaly_map=schema.read_map(row),
        map_box=_map_box(geometry),
        regions=tuple(Box(r["x"], r["y"], r["width"], r["height"]) for r in row["regions"] or ()),
        gt_mask=None if gt_mask is None else images.to_mask(gt_mask),
    )


def _read(uri: str) -> NDArray[np.uint8] | None:
    """The image's pixels; None where it is gone or damaged since it was scored."""
    try:
        return images.decode(datasets.read_image(uri))
    except (StorageError, ImageDecodeError):
        return None


def _map_box(geometry: Geometry) -> Box:
    """Where the whole map lies over the original: past its edges where borders were added."""
    x, y, width, height = geometry.valid
    scale_y, scale_x = geometry.original[0] / height, geometry.original[1] / width
    return Box(-x * scale_x, -y * scale_y, geometry.size[1] * scale_x, geometry.size[0] * scale_y)


def _errors(rows: pa.Table) -> tuple[ImageError, ...]:
    first = rows.select(["image_uri", "error_kind", "error_message"]).slice(0, _ERRORS_SHOWN)
    return tuple(
        ImageError(row["image_uri"], row["error_kind"], row["error_message"])
        for row in first.to_pylist()
    )


def _archive(night_uri: str) -> Archive:
    columns = ["category", "image_uri", "is_anomalous", "error_kind", "error_message"]
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
