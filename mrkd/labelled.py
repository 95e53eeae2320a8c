"""The champion of a category on its labelled images: what it says of each, and how good that is."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from mrkd import checkpoint, datasets, registry, schema, scoring
from mrkd.checkpoint import ModelCard
from mrkd.config import EvalConfig, ModelConfig, RowsConfig
from mrkd.datasets import Sample
from mrkd.errors import CategoryError
from mrkd.evaluation import PixelItem, evaluate_category
from mrkd.images import Geometry
from mrkd.leaks import Leak, find_leaks
from mrkd.registry import Promotion
from mrkd.roi import Roi
from mrkd.scoring import Decoded, Decoder, Scorer
from mrkd.scoring.regions import inside

LABELLED = pa.schema(
    [
        pa.field("category", pa.string(), nullable=False),
        *schema.SCORES,
        pa.field("gt_label", pa.int8(), nullable=False),
        pa.field("defect", pa.string(), nullable=False),
        pa.field("headline", pa.bool_(), nullable=False),
        pa.field("gt_mask_uri", pa.string()),
    ]
)
"""Rows of `evaluations/<run>/scores.parquet`: a night's, and what people had said."""

_STORED = RowsConfig()
_MAX_SIDE = 4096


@dataclass(frozen=True)
class Measured:
    """What the evaluation of one category found.

    Args:
        scores: one row for each image (`LABELLED`).
        metrics: rows of `schema.METRICS`.
        model: which model it was and what its threshold promises, plain values.
        leaks: images that show a part that training saw; none where nobody asked.
    """

    scores: pa.Table
    metrics: pa.Table
    model: Mapping[str, Any]
    leaks: Sequence[Leak] = ()


@dataclass(frozen=True)
class _Judged:
    """An image's row and, where pixels are measured, its whole map and how it lies on that."""

    sample: Sample
    row: dict[str, Any]
    geometry: Geometry | None
    anomaly_map: NDArray[np.float32] | None


def measure_category(config: EvalConfig, category: str, samples: Sequence[Sample]) -> Measured:
    """Scores the labelled images of a category and measures its champion by them.

    The maps of a category with ground-truth masks are held until all images are scored: 256 KiB an
    image at 256 pixels. Those of pictures that are scored in tiles wait on disk, at most 4096
    pixels high and wide.

    Args:
        config: which part of the images, and how.
        category: its name.
        samples: all of the category's.

    Raises:
        CategoryError: there is no model, no image, or none that can be scored; or a mask is not of
            its image's size.
        ArtefactError: the model is damaged.
        StorageError: the workspace, or a mask, cannot be read.
    """
    parts = ("val", "test") if config.part == "all" else (config.part,)
    chosen = [sample for sample in samples if sample.split in parts]
    if not chosen:
        raise CategoryError(f"it has no image in part {config.part!r}: label some, or name another")
    promotion = registry.champion(config.workspace, category)
    if promotion is None:
        raise CategoryError(f"it has no model in {config.workspace}: train it")
    card = checkpoint.read_card(config.workspace, category, promotion.version)
    judged = list(_judge(config, category, promotion, card, chosen))
    scored = [one for one in judged if one.row.get("image_score") is not None]
    if not scored:
        reason = judged[0].row["error_message"]
        raise CategoryError(f"none of its {len(judged)} images can be scored, the first: {reason}")
    metrics = evaluate_category(
        category,
        [one.row["image_score"] for one in scored],
        [one.sample.gt_label for one in scored],
        [one.sample.defect for one in scored],
        headline=[one.sample.headline for one in scored],
        groups=[one.sample.group for one in scored],
        pixels=_pixels(scored, card.region),
        resamples=config.resamples,
        bootstrap_seed=config.seed,
        seed=card.train.seed,
        model_version=promotion.version,
    )
    return Measured(
        scores=pa.Table.from_pylist([_labelled(one) for one in judged], schema=LABELLED),
        metrics=pa.Table.from_pylist(metrics, schema=schema.METRICS),
        model=_facts(config.workspace, promotion, card),
        leaks=_leaks(samples, chosen) if config.check_leaks else (),
    )


def _leaks(samples: Sequence[Sample], chosen: Sequence[Sample]) -> list[Leak]:
    trained = [sample for sample in samples if sample.split == "train"]
    return find_leaks([one.image_uri for one in trained], [one.image_uri for one in chosen])


def _judge(
    config: EvalConfig,
    category: str,
    promotion: Promotion,
    card: ModelCard,
    samples: Sequence[Sample],
) -> Iterator[_Judged]:
    """Every image with its row, maps reduced as a night stores them."""
    scorer = Scorer(config.workspace, config.pool)
    decoder = Decoder.of(card.model)
    whole = RowsConfig(map="float32", map_size=_side_in_full(card.model))
    has_masks = any(sample.gt_mask_uri for sample in samples)
    queue = iter(samples)
    while chunk := list(islice(queue, scoring.ahead_of(decoder))):
        decoded = list(scoring.decode_samples(chunk, decoder))
        rows = scorer.score(
            decoded,
            category=category,
            version=promotion.version,
            calibration=promotion.calibration,
            rows=whole,
        )
        for sample, image, row in zip(chunk, decoded, rows, strict=True):
            yield _judged(sample, image, row, keep_map=has_masks)


def _side_in_full(model: ModelConfig) -> int:
    """A side that no map is reduced to, as far as a row holds one."""
    return _MAX_SIDE if model.tiles else model.image_size


def _judged(sample: Sample, image: Decoded, row: dict[str, Any], *, keep_map: bool) -> _Judged:
    """The row with its map reduced to the size that is stored, and the whole map if asked for."""
    anomaly_map = schema.read_map(row) if row.get("image_score") is not None else None
    if anomaly_map is None or image.geometry is None:
        return _Judged(sample, row, None, None)
    height, width = anomaly_map.shape
    side = _STORED.map_size
    reduced = cv2.resize(
        anomaly_map, (min(side, width), min(side, height)), interpolation=cv2.INTER_AREA
    )
    row = row | schema.encode_map(np.asarray(reduced, np.float32), _STORED.map)
    if not keep_map:
        return _Judged(sample, row, image.geometry, None)
    in_tiles = image.pixels is not None and image.pixels.ndim == 4
    kept = _on_disk(anomaly_map) if in_tiles else anomaly_map
    return _Judged(sample, row, replace(image.geometry, size=(height, width)), kept)


def _on_disk(anomaly_map: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map in a file without a name, of which a killed process leaves nothing."""
    with tempfile.NamedTemporaryFile(prefix="mrkd-map-") as file:
        file.write(np.ascontiguousarray(anomaly_map).data)
        file.flush()
        # torch's mapping, unlike numpy's, keeps no file open: there is one for each image.
        mapped = torch.from_file(file.name, shared=True, size=anomaly_map.size)
    return np.asarray(mapped.numpy().reshape(anomaly_map.shape), np.float32)


def _pixels(scored: Sequence[_Judged], roi: Roi | None) -> Iterator[PixelItem]:
    """Map and mask of every image whose map was kept, without letterbox borders."""
    for number, one in enumerate(scored):
        if one.anomaly_map is None or one.geometry is None:
            continue
        uri, gt_mask = one.sample.gt_mask_uri, None
        if uri is not None:
            gt_mask = inside(datasets.read_gt_mask(uri, one.geometry), one.geometry)
        region = None if roi is None else inside(roi.at(one.geometry), one.geometry)
        yield PixelItem(number, inside(one.anomaly_map, one.geometry), gt_mask, region)


def _labelled(one: _Judged) -> dict[str, Any]:
    labels = ("category", "gt_label", "defect", "headline", "gt_mask_uri")
    return one.row | {name: getattr(one.sample, name) for name in labels}


def _facts(workspace: str, promotion: Promotion, card: ModelCard) -> dict[str, Any]:
    calibration = checkpoint.read_calibration(
        workspace, card.category, promotion.version, promotion.calibration
    )
    return {
        "model_version": promotion.version,
        "calibration": promotion.calibration,
        "teacher": card.teacher.name,
        "image_size": card.model.image_size,
        "resize": scoring.map_policy(card.model),
        "threshold": calibration.threshold,
        "pixel_threshold": calibration.pixel_threshold,
        "false_call_rate": calibration.false_call_rate,
        "supported_false_call_rate": calibration.supported_false_call_rate,
        "num_held_out": len(calibration.scores),
        "warning": calibration.warning,
    }
