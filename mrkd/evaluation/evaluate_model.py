"""Evaluation of a model on a category's labelled images: a row for each image, and metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mrkd.config import EvalConfig, RowsConfig, config_digest
from mrkd.data import datasets, preprocess
from mrkd.data.datasets import Sample
from mrkd.data.images import Geometry
from mrkd.data.leak_check import Leak, find_leaks
from mrkd.data.preprocess import Preprocessor
from mrkd.errors import CategoryError
from mrkd.evaluation.category_metrics import Pixels, evaluate_category
from mrkd.model import device, inference
from mrkd.model.artefact import Calibration, TeacherCard, save_load
from mrkd.model.detector import Detector
from mrkd.model.inference.regions import inside
from mrkd.model.registry import promotions
from mrkd.storage import schema

LABELLED = pa.schema(
    [
        pa.field("category", pa.string(), nullable=False),
        *schema.SCORES,
        pa.field("gt_label", pa.int8(), nullable=False),
        pa.field("defect", pa.string(), nullable=False),
        pa.field("headline", pa.bool_(), nullable=False),
        pa.field("gt_mask_uri", pa.string()),
        pa.field("group", pa.string()),
    ]
)
"""Rows of `evaluations/<run>/scores.parquet`: a night's columns, and the labels."""

_LABELS = ("category", "gt_label", "defect", "headline", "gt_mask_uri", "group")
_STORED = RowsConfig()
_MAX_SIDE = 4096


@dataclass(frozen=True)
class Evaluation:
    """Result of the evaluation of one category.

    Args:
        scores: one row for each image (`LABELLED`).
        metrics: rows of `schema.FIGURES`.
        model: name of the model and rates of its threshold, plain values.
        leaks: images that show a part that training saw; empty where this was not checked.
        left_out: URI of each image that is left out of the pixel metrics for its mask, with the
            reason.
    """

    scores: pa.Table
    metrics: pa.Table
    model: Mapping[str, Any]
    leaks: Sequence[Leak] = ()
    left_out: Sequence[str] = ()

    @property
    def num_errors(self) -> int:
        """Images that cannot be scored."""
        return int(self.scores["image_score"].null_count)

    @property
    def errors(self) -> str:
        """One line on the images that cannot be scored; empty where there is none."""
        if not self.num_errors:
            return ""
        first = self.scores.filter(pc.field("image_score").is_null()).slice(0, 1).to_pylist()[0]
        return (
            f"{self.num_errors} of {self.scores.num_rows} images cannot be scored and are in no "
            f"figure, the first {first['image_uri']}: {first['error_message']}"
        )


@dataclass(frozen=True)
class Evaluator:
    """A model that is measured.

    Args:
        model: in eval mode, on the device to score on.
        calibration: calibration of its scores.
        version: its name; empty where it has none.
        seed: seed that it was trained with.
        config_digest: digest of the configuration of its network and training.
    """

    model: Detector
    calibration: Calibration
    version: str
    seed: int
    config_digest: str


def measure_category(config: EvalConfig, category: str, samples: Sequence[Sample]) -> Evaluation:
    """Scores the labelled images of a category and measures its champion by them.

    Args:
        config: which part of the images, and how.
        category: its name.
        samples: all of the category's.

    Raises:
        CategoryError: as `measure`, or the category has no model.
        ArtefactError: the model is damaged.
        StorageError: the workspace cannot be read, or a mask cannot be reached now.
    """
    _chosen(config, samples)  # a lack of images is reported before a lack of a model
    promotion = promotions.champion(config.workspace, category)
    if promotion is None:
        raise CategoryError(f"it has no model in {config.workspace}: train it")
    judge = judge_of(config, category, promotion.version, promotion.calibration)
    return measure(judge, config, category, samples)


def judge_of(config: EvalConfig, category: str, version: str, calibration: int = 1) -> Evaluator:
    """A version of the config's workspace; errors as `measure_category`."""
    loaded = save_load.load(config.workspace, category, version, calibration=calibration)
    loaded.model.to(device.choose(config.pool.device, "float32").device)
    loaded.card.check_precision(config.pool.precision)
    train = loaded.card.train
    digest = config_digest(loaded.model.config, train)
    return Evaluator(loaded.model, loaded.calibration, version, train.seed, digest)


def measure(
    judge: Evaluator, config: EvalConfig, category: str, samples: Sequence[Sample]
) -> Evaluation:
    """Scores the labelled images of a category and measures a model by them.

    Images are scored and their maps measured batch by batch: only an image's row and its values for
    the pixel metrics are kept. An image with an unusable mask is left out of the pixel metrics.

    Args:
        judge: the model.
        config: which part of the images, and how.
        category: its name.
        samples: all of the category's.

    Raises:
        CategoryError: the part has no image, or none that can be scored.
        StorageError: a mask cannot be reached now.
    """
    chosen = _chosen(config, samples)
    pixels, rows, scored = Pixels(), list[dict[str, Any]](), list[tuple[Sample, float]]()
    left_out: list[str] = []
    for sample, row, shown in _judge(judge, config, chosen):
        rows.append(row | {name: getattr(sample, name) for name in _LABELS})
        if row.get("image_score") is None:
            continue
        if isinstance(shown, str):
            pixels.leave_out(len(scored))
            left_out.append(f"{sample.image_uri}: {shown}")
        elif shown is not None:
            pixels.add(len(scored), *shown, gt_label=sample.gt_label)
        scored.append((sample, row["image_score"]))
    if not scored:
        reason = rows[0]["error_message"]
        raise CategoryError(f"none of its {len(rows)} images can be scored, the first: {reason}")
    metrics = evaluate_category(
        category,
        [score for _, score in scored],
        [sample.gt_label for sample, _ in scored],
        [sample.defect for sample, _ in scored],
        headline=[sample.headline for sample, _ in scored],
        groups=[sample.group for sample, _ in scored],
        pixels=pixels,
        resamples=config.resamples,
        bootstrap_seed=config.seed,
        seed=judge.seed,
        model_version=judge.version,
    )
    trained = [one.image_uri for one in samples if one.split == "train"]
    return Evaluation(
        scores=pa.Table.from_pylist(rows, schema=LABELLED),
        metrics=pa.Table.from_pylist(metrics, schema=schema.FIGURES),
        model=_facts(judge),
        leaks=find_leaks(trained, [one.image_uri for one in chosen]) if config.check_leaks else (),
        left_out=left_out,
    )


def _chosen(config: EvalConfig, samples: Sequence[Sample]) -> list[Sample]:
    """The images that judge; a CategoryError where there are none."""
    parts = ("val", "test") if config.part == "all" else (config.part,)
    chosen = [sample for sample in samples if sample.split in parts]
    if not chosen:
        raise CategoryError(f"it has no image in part {config.part!r}: label some, or name another")
    return chosen


_Maps = tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]
"""Anomaly map, mask and region of interest of an image, without letterbox borders."""


def _judge(
    judge: Evaluator, config: EvalConfig, samples: Sequence[Sample]
) -> Iterator[tuple[Sample, dict[str, Any], _Maps | str | None]]:
    """Every image with its row, the map reduced as a night stores it, and its maps in full.

    Instead of the maps, the reason why its mask cannot be used; None where there is not a map.
    """
    decoder = Preprocessor.of(judge.model.config)
    place = next(judge.model.parameters()).device
    # A side at which no map is reduced, as far as a row can hold it.
    side = _MAX_SIDE if judge.model.config.tiles else judge.model.config.image_size
    # What is measured is the score, also of an image that a night would refuse.
    whole = RowsConfig(map="float32", map_size=side, unlike="accept")
    has_masks = any(sample.gt_mask_uri for sample in samples)
    facts = _facts(judge)
    pinned = {name: facts[name] for name in ("model_version", "calibration", "teacher")}
    queue = iter(samples)
    while chunk := list(islice(queue, preprocess.ahead_of(decoder))):
        decoded = list(preprocess.decode_samples(chunk, decoder))
        rows = inference.score_rows(
            judge.model,
            judge.calibration,
            decoded,
            batch_size=inference.batch_size_on(place, config.pool),
            rows=whole,
        )
        for sample, image, row in zip(chunk, decoded, rows, strict=True):
            anomaly_map = schema.read_map(row) if row.get("image_score") is not None else None
            if anomaly_map is None or image.geometry is None:
                yield sample, row | pinned, None
                continue
            shown: _Maps | str | None = None
            if has_masks:
                geometry = replace(image.geometry, size=anomaly_map.shape)
                shown = _shown(judge.model, sample, geometry, anomaly_map)
            yield sample, row | pinned | _reduced(anomaly_map), shown


def _reduced(anomaly_map: NDArray[np.float32]) -> dict[str, Any]:
    """The map's columns, at the size that is stored."""
    height, width = anomaly_map.shape
    side = _STORED.map_size
    size = (min(side, width), min(side, height))
    reduced = cv2.resize(anomaly_map, size, interpolation=cv2.INTER_AREA)
    return schema.encode_map(np.asarray(reduced, np.float32), _STORED.map)


def _shown(
    model: Detector, sample: Sample, geometry: Geometry, anomaly_map: NDArray[np.float32]
) -> _Maps | str:
    gt_mask = region = None
    if sample.gt_mask_uri is not None:
        try:
            gt_mask = inside(datasets.read_gt_mask(sample.gt_mask_uri, geometry), geometry)
        except CategoryError as error:
            return str(error)
        if gt_mask.any() != bool(sample.gt_label):
            state, marks = ("defective", "nothing") if sample.gt_label else ("good", "a defect")
            return f"it is {state}, and its gt_mask {sample.gt_mask_uri!r} marks {marks}"
    if model.roi is not None:
        region = inside(model.roi.at(geometry), geometry)
    return inside(anomaly_map, geometry), gt_mask, region


def _facts(judge: Evaluator) -> dict[str, Any]:
    model, calibration = judge.model.config, judge.calibration
    teacher = judge.model.teacher
    return {
        "model_version": judge.version,
        "seed": judge.seed,
        "config_digest": judge.config_digest,
        "calibration": calibration.number,
        "teacher": TeacherCard(teacher.name, teacher.digest, teacher.random).name,
        "image_size": model.image_size,
        "resize": preprocess.map_policy(model),
        "threshold": calibration.threshold,
        "pixel_threshold": calibration.pixel_threshold,
        "false_call_rate": calibration.false_call_rate,
        "supported_false_call_rate": calibration.supported_false_call_rate,
        "num_held_out": len(calibration.scores),
        "warning": calibration.warning,
    }
