"""From samples to a version in the workspace that is promoted, or held.

What is written, in this order: checkpoints, the version, the gate's decision (a promotion or a
hold), the record of the inputs. A start finds how far an earlier one came and does the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

from mrkd import checkpoint, device, gate, models, registry, training
from mrkd.category import facts
from mrkd.category.images import (
    DecodedImages,
    check_sides,
    count_sides,
    decode_good,
    fingerprint,
)
from mrkd.category.job import Checkpoints, Job, prepare
from mrkd.category.probe import Probe
from mrkd.category.result import CategoryResult
from mrkd.category.scores import score_good
from mrkd.category.standing import standing
from mrkd.checkpoint import Calibration, ModelCard
from mrkd.config import RoiConfig, TrainConfig
from mrkd.datasets import Sample
from mrkd.decoding import Decoder, map_policy
from mrkd.errors import CategoryError, StandsError
from mrkd.feature_cache import TeacherFeatures
from mrkd.model import MRKD, build
from mrkd.models import LoadedModel
from mrkd.parallel import Group
from mrkd.roi import Roi
from mrkd.training import FitResult, Report

log = logging.getLogger(__name__)

MAX_SKIPPED_STORED = 100


def train_category(
    config: TrainConfig,
    category: str,
    samples: Sequence[Sample],
    *,
    report: Report | None = None,
    checkpoints_uri: str = "",
    group: Group | None = None,
    probe: Probe | None = None,
) -> CategoryResult:
    """Trains, calibrates, stores and judges the model of one category.

    Args:
        config: of the fleet.
        category: its name.
        samples: of the category; its good training images are trained on, by labelled ones the
            gate measures the new model.
        report: called with each epoch's row; never called where the version stands.
        checkpoints_uri: folder of the category's checkpoints, to go on from and to write; empty:
            none.
        group: the workers that share this training, of which this is the first; the others call
            `assist`. None: this one alone.
        probe: of a search, which measures the model itself: no gate judges the version, which is
            neither promoted nor held.

    Raises:
        CategoryError: too few images, images that change meanwhile, a region of interest that does
            not fit them, or a training that diverged.
        MrkdError: what else a user can mend: storage, teacher, a race for the promotion.
    """
    started_at = datetime.now(UTC).isoformat()
    job = prepare(config, category, samples, group or Group())
    checkpoints = Checkpoints(checkpoints_uri, job.version)
    loaded = None
    if job.stands:
        result = _stored(job)
    else:
        images = _decode(job)
        model, fitted = _fit(job, images, report, checkpoints, probe)
        try:
            loaded, result = _save(job, images, model, fitted, probe)
        except StandsError:
            # Another run of the same inputs was faster, such as a worker of a driver that died.
            log.warning("version_stands category=%s version=%s", category, job.version)
            result = _stored(job)
    if probe:
        with job.clock("measure"):
            result = replace(result, marks=_marks(job, loaded, probe))
    else:
        with job.clock("gate"):
            result = replace(result, gate=_decide(job, samples, loaded))
        if standing(config.workspace, category, job.inputs) is None:
            registry.record_inputs(config.workspace, category, job.inputs, result.to_dict())
    checkpoints.clear()
    log.info("category_end category=%s status=%s version=%s", category, result.status, job.version)
    return replace(
        result,
        seconds=job.clock.seconds,
        started_at=started_at,
        finished_at=datetime.now(UTC).isoformat(),
    )


def assist(
    config: TrainConfig,
    category: str,
    samples: Sequence[Sample],
    *,
    report: Report | None = None,
    checkpoints_uri: str = "",
    group: Group,
) -> None:
    """A further worker's share of `train_category`; arguments and errors as there."""
    job = prepare(config, category, samples, group)
    if not job.stands:
        _fit(job, _decode(job), report, Checkpoints(checkpoints_uri, job.version))


def _decode(job: Job) -> DecodedImages:
    model = job.config.model
    with job.clock("decode"):
        images = decode_good(job.good, Decoder.of(model))
        check_sides(images.good, images.skipped)
    return images


def _fit(
    job: Job,
    images: DecodedImages,
    report: Report | None,
    checkpoints: Checkpoints,
    probe: Probe | None = None,
) -> tuple[MRKD, FitResult]:
    """The trained model, from the last checkpoint if there is one."""
    config = job.config.train
    with job.clock("fit"):
        roi = _roi(job.config.roi, images)
        model = build(job.config.model, job.teacher, seed=config.seed, roi=roi)
        # Precision is measured by `fit`, on the device that the model is on.
        model.to(device.choose(config.device, "float32").device)
        features, held_out = (
            TeacherFeatures(
                model.teacher,
                part,
                budget_bytes=config.cache_bytes,
                roi=model.pixel_roi,
                folder=probe.features_folder if probe else "",
            )
            for part in (images.squares("train"), images.squares("validation"))
        )
        if probe and report:
            report = probe.reporting(report, model, held_out, job.samples_on("validation"))
        fitted = training.fit(
            model,
            features,
            held_out,
            config,
            sample_ids=images.names("train"),
            report=report,
            group=job.group,
            resume=checkpoints.last(),
            save=checkpoints.save if checkpoints.uri else None,
            checkpoint_s=job.config.fleet.checkpoint_s,
        )
        facts.check_converged(fitted)
    return model, fitted


def _roi(config: RoiConfig, images: DecodedImages) -> Roi | None:
    """The region of interest, drawn for images that all are of one size."""
    roi = None
    for image in images.decoded:
        assert image.geometry is not None
        roi = roi or Roi.from_config(config, size=image.geometry.original)
        if roi and (misfit := roi.misfit(image.geometry.original)):
            raise CategoryError(f"{image.image_uri}: {misfit}")
    return roi


def _save(
    job: Job,
    images: DecodedImages,
    model: MRKD,
    fitted: FitResult,
    probe: Probe | None,
) -> tuple[LoadedModel, CategoryResult]:
    """The calibrated model, a version of the workspace if it is to be kept."""
    with job.clock("calibrate"):
        # Nobody looks for defects among a trial's training images.
        scored = images.only("calibration") if probe else images
        scores = score_good(model, scored, job.config.train)
    with job.clock("save"):
        num_images = count_sides(images.good)
        skipped = [*job.left_out, *images.skipped]
        draft = models.draft(
            model,
            scores.calibration,
            category=job.category,
            version=job.version,
            train=job.config.train,
            data={
                "fingerprint": fingerprint(job.good),
                "num_images": num_images,
                "skipped": skipped[:MAX_SKIPPED_STORED],
            },
            metrics=facts.metrics(fitted),
            history=pa.Table.from_pylist(fitted.history),
            training_scores=scores.table,
        )
        if not (probe and probe.forgets):
            models.save(job.config.workspace, draft)
    loaded = LoadedModel(model, draft.card, scores.calibration)
    result = replace(
        _result(job, "trained", loaded.card, loaded.calibration),
        images_per_s=fitted.images_per_s,
        skipped=skipped,
        warnings=facts.warnings(images, scores, fitted, job.teacher),
    )
    return loaded, result


def _stored(job: Job) -> CategoryResult:
    """What is to be said of a version that stands."""
    workspace, category, version = job.config.workspace, job.category, job.version
    card = checkpoint.read_card(workspace, category, version)
    calibration = checkpoint.read_calibration(workspace, category, version, 1)
    return _result(job, "up_to_date", card, calibration)


def _result(
    job: Job, status: Literal["trained", "up_to_date"], card: ModelCard, calibration: Calibration
) -> CategoryResult:
    return CategoryResult(
        category=job.category,
        status=status,
        version=job.version,
        num_images=dict(card.data["num_images"]),
        image_size=card.model.image_size,
        resize=map_policy(card.model),
        model_bytes=card.num_bytes,
        threshold=calibration.threshold,
        supported_false_call_rate=calibration.supported_false_call_rate,
        steps=card.metrics["steps"],
    )


def _marks(job: Job, loaded: LoadedModel | None, probe: Probe) -> Mapping[str, Any]:
    loaded = loaded or _load(job)
    samples = job.samples_on("validation")
    return probe.marks(loaded.model, samples, loaded.calibration.threshold)


def _load(job: Job) -> LoadedModel:
    """A version that an earlier start saved, on the device to score on."""
    loaded = models.load(job.config.workspace, job.category, job.version)
    loaded.model.to(device.choose(job.config.train.device, "float32").device)
    return loaded


def _decide(job: Job, samples: Sequence[Sample], loaded: LoadedModel | None) -> dict[str, Any]:
    """What the gate says of a version, and then stands: it is promoted, or held.

    A version is judged once: one that a person has since replaced by another stays replaced.
    """
    workspace, category, version = job.config.workspace, job.category, job.version
    past = registry.promotions(workspace, category)
    for promotion in reversed(past):
        if promotion.version == version:
            return dict(promotion.gate or {"state": "passed", "reason": promotion.why})
    held = registry.holds(workspace, category)
    if version in held:
        return dict(held[version].gate)
    verdict = gate.judge(
        workspace,
        # None: saved by a start that was ended before it came here.
        loaded or _load(job),
        past[-1] if past else None,
        samples=samples,
        # A side of its own is no side by its key, by which the gate knows who was held out.
        good=[(one.sample, one.key) for one in job.good if one.sample.side is None],
        max_images=job.config.fleet.gate_images,
    )
    by = f"train {job.config.run}"
    if verdict.state == "held":
        registry.hold(
            workspace, category, version, by=by, reason=verdict.reason, gate=verdict.record
        )
    else:
        why = "first" if verdict.state == "first" else "retrained"
        registry.promote(
            workspace,
            category,
            version,
            by=by,
            why=why,
            gate=verdict.record,
            # Whoever promoted another meanwhile had not been measured against.
            after=past[-1].number if past else 0,
        )
    return verdict.record
