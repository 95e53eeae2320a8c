"""From samples to a promoted model."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mrkd import checkpoint, device, registry, training
from mrkd.backbones import Teacher, load_teacher
from mrkd.calibration import calibrate
from mrkd.category.images import (
    DecodedImages,
    GoodImage,
    check_sides,
    count_sides,
    decode_good,
    fingerprint,
    read_good,
)
from mrkd.checkpoint import Calibration
from mrkd.config import FitConfig, TrainConfig
from mrkd.datasets import Sample
from mrkd.errors import CategoryError
from mrkd.feature_cache import TeacherFeatures
from mrkd.model import MODEL_VERSION, MRKD, build
from mrkd.scoring import Decoder, score_images
from mrkd.training import FitResult, Report

log = logging.getLogger(__name__)

MAX_SKIPPED_STORED = 100
TRAINING_SCORES = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("side", pa.string(), nullable=False),
        pa.field("image_score", pa.float32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class CategoryResult:
    """How the training of one category ended, where it did not fail.

    Args:
        category: its name.
        status: `up_to_date`: the same images, config and teacher made that version before.
        version: of the model.
        num_images: good images on each side: train, validation, calibration.
        threshold: of the new calibration; None where nothing was trained.
        images_per_s: training images through the student; None where nothing was trained.
        skipped: images that cannot be decoded, each with its reason.
        warnings: what a person should know of, one line each.
        seconds: of each stage.
    """

    category: str
    status: Literal["trained", "up_to_date"]
    version: str
    num_images: dict[str, int]
    threshold: float | None = None
    images_per_s: float | None = None
    skipped: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def train_category(
    config: TrainConfig, category: str, samples: Sequence[Sample], *, report: Report | None = None
) -> CategoryResult:
    """Trains, calibrates, stores and promotes the model of one category.

    The first model of a category is promoted as `first`, every later one as `retrained`: there is
    no gate between challenger and champion yet.

    Args:
        config: of the fleet.
        category: its name.
        samples: of the category; its good training images are used, the rest is left alone.
        report: called with each epoch's row; never called where the version stands.

    Raises:
        CategoryError: too few images, images that change meanwhile, or a training that diverged.
        MrkdError: what else a user can mend: storage, teacher, a race for the promotion.
    """
    clock, model = _Clock(), config.model
    with clock("read"):
        good = read_good(
            [s for s in samples if s.split == "train" and not s.gt_label], config.train
        )
        check_sides(good)
    with clock("teacher"):
        teacher = load_teacher(
            model.backbone,
            taps=model.taps,
            weights=model.weights,
            sha256=model.weights_sha256,
            seed=config.train.seed,
        )
        checkpoint.store_teacher(config.workspace, teacher)
    version = registry.version_of(
        model,
        config.train,
        data_fingerprint=fingerprint(good),
        teacher_digest=teacher.digest,
        model_version=MODEL_VERSION,
    )
    if registry.exists(config.workspace, category, version) and not config.fleet.force:
        result = CategoryResult(category, "up_to_date", version, count_sides(good))
    else:
        version = registry.next_version(config.workspace, category, version)
        result = _train(config, category, version, good, teacher, report, clock)
    _promote(config, category, version)
    log.info("category_end category=%s status=%s version=%s", category, result.status, version)
    return replace(result, seconds=clock.seconds)


def _train(
    config: TrainConfig,
    category: str,
    version: str,
    good: list[GoodImage],
    teacher: Teacher,
    report: Report | None,
    clock: _Clock,
) -> CategoryResult:
    """From good images to a complete version in the workspace."""
    with clock("decode"):
        images = decode_good(good, Decoder(config.model.image_size, config.model.resize))
        check_sides(images.good, images.skipped)
    with clock("fit"):
        model = build(config.model, teacher, seed=config.train.seed)
        fitted = _fit(model, images, config.train, report)
    with clock("calibrate"):
        scores, calibration = _calibrate(model, images, config.train)
    num_images = count_sides(images.good)
    with clock("save"):
        checkpoint.save(
            config.workspace,
            model,
            calibration,
            category=category,
            version=version,
            train=config.train,
            data={
                "fingerprint": fingerprint(good),
                "num_images": num_images,
                "skipped": images.skipped[:MAX_SKIPPED_STORED],
            },
            metrics=_metrics(fitted),
            history=pa.Table.from_pylist(fitted.history),
            training_scores=_training_scores(images.good, scores),
        )
    return CategoryResult(
        category=category,
        status="trained",
        version=version,
        num_images=num_images,
        threshold=calibration.threshold,
        images_per_s=fitted.images_per_s,
        skipped=images.skipped,
        warnings=_warnings(images, calibration, teacher),
    )


def _fit(model: MRKD, images: DecodedImages, config: FitConfig, report: Report | None) -> FitResult:
    # Precision is measured by `fit`, on the device that the model is on.
    model.to(device.choose(config.device, "float32").device)
    train = images.on("train")
    pixels = images.pixels[train], images.pixels[images.on("validation")]
    features, held_out = (
        TeacherFeatures(model.teacher, part, budget_bytes=config.cache_bytes) for part in pixels
    )
    ids = [one.digest for one in images.good[train]]
    fitted = training.fit(model, features, held_out, config, sample_ids=ids, report=report)
    check_converged(fitted)
    return fitted


def check_converged(fitted: FitResult) -> None:
    """Whether the weights that a training kept are of an epoch whose losses were numbers.

    Raises:
        CategoryError: they are the initial ones: not one epoch had a finite validation loss.
    """
    best = fitted.history[fitted.best_epoch]
    if not (math.isfinite(best["loss"]) and math.isfinite(best["validation_loss"])):
        raise CategoryError(
            f"the training diverged: after {fitted.steps} steps no epoch has a finite loss; lower "
            "train.learning_rate, or set train.precision to float32"
        )


def _calibrate(
    model: MRKD, images: DecodedImages, config: FitConfig
) -> tuple[NDArray[np.float32], Calibration]:
    """The score of every good image, by the path that scores a night, and the calibration."""
    found = [(s.image_score, s.inside.max()) for s in score_images(model, images.decoded)]
    scores, maxima = np.array(found, np.float32).T
    held_out = images.on("calibration")
    calibration = calibrate(
        scores[held_out],
        maxima[held_out],
        [image.statistics for image in images.decoded[held_out] if image.statistics],
        false_call_rate=config.false_call_rate,
    )
    return scores, calibration


def _metrics(fitted: FitResult) -> dict[str, Any]:
    """What `model.json` says of the training; no times: equal trainings give equal figures."""
    best = fitted.history[fitted.best_epoch]
    return {
        "steps": fitted.steps,
        "epochs": len(fitted.history),
        "best_epoch": fitted.best_epoch,
        "loss": best["loss"],
        "validation_loss": best["validation_loss"],
        "device": str(fitted.placement.device),
        "precision": str(fitted.placement.precision).removeprefix("torch."),
    }


def _training_scores(good: list[GoodImage], scores: NDArray[np.float32]) -> pa.Table:
    columns = [
        [one.sample.image_uri for one in good],
        [one.digest for one in good],
        [one.side for one in good],
        scores,
    ]
    return pa.table(columns, schema=TRAINING_SCORES)


def _warnings(images: DecodedImages, calibration: Calibration, teacher: Teacher) -> list[str]:
    found = [calibration.warning] if calibration.warning else []
    if images.skipped:
        num_skipped, num_good = len(images.skipped), len(images.good)
        found.append(
            f"{num_skipped} of {num_skipped + num_good} good images cannot be decoded and were "
            f"left out: {images.skipped[0]}"
        )
    if teacher.random:
        found.append("the teacher's weights are random: good for a test, for nothing else")
    return found


def _promote(config: TrainConfig, category: str, version: str) -> None:
    """Promotes a version that never was: not one that a person has since replaced by another."""
    past = registry.promotions(config.workspace, category)
    if version not in {promotion.version for promotion in past}:
        registry.promote(
            config.workspace,
            category,
            version,
            by=f"train {config.run}",
            why="retrained" if past else "first",
        )


class _Clock:
    """Seconds of each named stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - began
