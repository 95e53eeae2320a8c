"""Training of one category: from samples to a version that is promoted or held.

It writes, in this order: checkpoints, the version, the gate's decision (a promotion or a hold), the
record of the inputs. A later start finds what is there and does the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from mrkd.config import RoiConfig, TrainConfig
from mrkd.data.datasets import Sample
from mrkd.data.preprocess import Preprocessor, map_policy
from mrkd.data.roi import Roi
from mrkd.errors import CategoryError, StandsError
from mrkd.model import artefact, device
from mrkd.model.artefact import Calibration, ModelCard, save_load
from mrkd.model.artefact.save_load import LoadedModel
from mrkd.model.detector import pixel_region
from mrkd.model.ensemble import Ensemble, Model, model_of
from mrkd.model.feature_cache import TeacherFeatures
from mrkd.model.memory import memory_errors
from mrkd.model.registry import promotions
from mrkd.training import fit, gate
from mrkd.training.category import warnings as facts
from mrkd.training.category.calibrate import score_good
from mrkd.training.category.carry_over import carried_over
from mrkd.training.category.groups import Groups, Split, groups_of, split_of, why_no_student
from mrkd.training.category.inputs import Checkpoints, Job, prepare
from mrkd.training.category.result import CategoryResult
from mrkd.training.category.split_images import (
    DecodedImages,
    ReadImages,
    check_count,
    decode_good,
    fingerprint,
)
from mrkd.training.category.trial_hook import TrialHook, calibrate_by
from mrkd.training.category.up_to_date import standing
from mrkd.training.fit import CrossFit, FitResult, Report
from mrkd.training.fit.process_group import ProcessGroup

log = logging.getLogger(__name__)

MAX_SKIPPED_STORED = 100


def train_category(
    config: TrainConfig,
    category: str,
    samples: Sequence[Sample],
    *,
    report: Report | None = None,
    checkpoints_uri: str = "",
    group: ProcessGroup | None = None,
    probe: TrialHook | None = None,
    images: ReadImages | None = None,
) -> CategoryResult:
    """Trains, calibrates, stores and judges the model of one category.

    Args:
        config: configuration of the fleet.
        category: its name.
        samples: all images of the category: the good training images are trained on, the labelled
            ones are the gate's.
        report: called with each epoch's row; never called where the version is complete.
        checkpoints_uri: folder of the category's checkpoints, to read and to write; empty: none.
        group: the workers that share this training, of which this is the first; the others call
            `assist`. None: this one alone.
        probe: hook of a search, which measures the model itself: no gate judges the version, which
            is neither promoted nor held.
        images: the good images, where they were read before; None: they are read here.

    Raises:
        DeviceError: a GPU that is held cannot be used, or two workers have one.
        MemoryShortError: memory runs out.
        CategoryError: too few images, images that change meanwhile, a region of interest that does
            not fit them, or a training that diverged.
        MrkdError: any other error that a user can fix: storage, teacher, a race for the promotion.
    """
    group = group or ProcessGroup()
    with group.sharing_failures(), memory_errors(f"the training of {category}"):
        return _train(config, category, samples, report, checkpoints_uri, group, probe)


def _train(
    config: TrainConfig,
    category: str,
    samples: Sequence[Sample],
    report: Report | None,
    checkpoints_uri: str,
    group: ProcessGroup,
    probe: TrialHook | None,
) -> CategoryResult:
    started_at = datetime.now(UTC).isoformat()
    job = prepare(config, category, samples, group)
    checkpoints = Checkpoints(checkpoints_uri, job.version)
    loaded = fitted = None
    if job.is_complete:
        result = _stored(job)
    else:
        fitted = _fit(job, report, checkpoints, probe)
        try:
            loaded, result = _save(job, fitted, probe)
        except StandsError:
            # Another run of the same inputs was faster, such as a worker of a driver that died.
            log.warning("version_stands category=%s version=%s", category, job.version)
            result = _stored(job)
    if probe:
        with job.clock("measure"):
            result = replace(result, marks=_marks(job, loaded, fitted, probe))
    else:
        with job.clock("gate"):
            result = replace(result, gate=_decide(job, samples, loaded))
        # What cannot be read today is looked at again by the next start.
        if not job.images.unreadable and standing(config.workspace, category, job.inputs) is None:
            promotions.record_inputs(config.workspace, category, job.inputs, result.to_dict())
    checkpoints.clear()
    log.info("category_end category=%s status=%s version=%s", category, result.status, job.version)
    return replace(
        result,
        seconds=dict(job.clock),
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
    group: ProcessGroup,
) -> None:
    """A further worker's share of `train_category`; arguments and errors as there."""
    with group.sharing_failures(), memory_errors(f"the training of {category}"):
        job = prepare(config, category, samples, group)
        if not job.is_complete:
            _fit(job, report, Checkpoints(checkpoints_uri, job.version))


@dataclass(frozen=True)
class _Fitted:
    """A trained model, not calibrated yet, and its inputs."""

    model: Model
    images: DecodedImages
    split: Split
    student: FitResult | None
    no_student: str
    cross: CrossFit | None


def _fit(
    job: Job, report: Report | None, checkpoints: Checkpoints, probe: TrialHook | None = None
) -> _Fitted:
    """The trained model, its student from the last checkpoint if there is one."""
    config = job.config.train
    images = job.images.decoded
    if images is None:
        with job.clock("decode"):
            images = decode_good(job.good, Preprocessor.of(job.config.model), job.group)
    check_count(images.good, images.skipped)
    roi = _roi(job.config.roi, images)
    job.teacher.to(device.choose(config.device, "float32").device)
    with job.clock("features"):
        features = TeacherFeatures(
            job.teacher,
            images.pixels[: images.num_squares],
            budget_bytes=config.cache_bytes,
            roi=pixel_region(job.config.model, roi),
            folder=probe.features_folder if probe else "",
            sharers=job.group,
        ).ready()
        groups = groups_of(images, features)
        # The first worker's groups: another kind of processor may find others.
        groups = Groups(job.group.broadcast_all(groups.labels), groups.source)
    no_student = why_no_student(job.config.model, config, images, groups)
    network = replace(job.config.model, student=job.config.model.student and not no_student)
    asking = probe is not None and probe.is_asking
    split = split_of(images, groups, config, sided=network.student or asking)
    log.info(
        "split category=%s images=%d groups=%d source=%s sides=%s student=%s",
        job.category, len(images), len(groups), groups.source, split.counts, no_student or "yes",
    )  # fmt: skip
    with job.clock("fit"):
        model = model_of(network, job.teacher, roi, seed=config.seed)
        model.to(next(job.teacher.parameters()).device)
        cross = None
        if isinstance(model, Ensemble) and job.group.rank == 0:
            # A trial is measured on held-out images, which the cells must not know.
            known = images.squares_of(split.on("train")) if asking else None
            folds = images.for_squares(split.folds)
            cross = CrossFit(model, features, folds, seed=config.seed, known=known)
        student = model.student if isinstance(model, Ensemble) else model
        fitted = None
        if student is not None:
            train, held_out = (
                features.of(images.squares_of(split.on(side))) for side in ("train", "validation")
            )
            if probe and report:
                validation = [images.good[n].sample for n in split.on("validation")]
                report = probe.reporting(report, model, held_out, validation)
            fitted = fit.fit(
                student,
                train,
                held_out,
                config,
                sample_ids=images.names(split.on("train")),
                report=report,
                group=job.group,
                resume=checkpoints.last(),
                save=checkpoints.save if checkpoints.uri else None,
                checkpoint_s=job.config.fleet.checkpoint_s,
            )
            facts.check_converged(fitted)
        if asking and cross is not None:
            calibrate_by(model, features.of(images.squares_of(split.held_out)))
    return _Fitted(model.eval(), images, split, fitted, no_student, cross)


def _roi(config: RoiConfig, images: DecodedImages) -> Roi | None:
    """The region of interest, drawn for images that all are of one size."""
    roi = None
    for image in images.decoded:
        assert image.geometry is not None
        roi = roi or Roi.from_config(config, size=image.geometry.original)
        if roi and (misfit := roi.misfit(image.geometry.original)):
            raise CategoryError(f"{image.image_uri}: {misfit}")
    return roi


def _save(job: Job, fitted: _Fitted, probe: TrialHook | None) -> tuple[LoadedModel, CategoryResult]:
    """The calibrated model, a version of the workspace if it is to be kept."""
    model, images, split = fitted.model, fitted.images, fitted.split
    with job.clock("calibrate"):
        scores = score_good(model, images, split, job.config.train, cross=fitted.cross)
    with job.clock("save"):
        skipped = [*job.images.left_out, *images.skipped]
        draft = save_load.draft(
            model,
            scores.calibration,
            category=job.category,
            version=job.version,
            train=job.config.train,
            data={
                "fingerprint": fingerprint(job.good),
                "num_images": split.counts,
                "num_groups": len(split.groups),
                "groups": split.groups.source,
                "no_student": fitted.no_student,
                "skipped": skipped[:MAX_SKIPPED_STORED],
            },
            metrics=facts.metrics(fitted.student, next(model.parameters()).device),
            history=facts.history(fitted.student),
            training_scores=scores.table,
        )
        if not (probe and probe.forgets):
            save_load.save(job.config.workspace, draft)
    loaded = LoadedModel(model, draft.card, scores.calibration)
    result = replace(
        _result(job, "trained", loaded.card, loaded.calibration),
        images_per_s=fitted.student.images_per_s if fitted.student else None,
        skipped=skipped,
        warnings=[*job.warnings, *facts.warnings(images, scores, fitted.student, job.teacher)],
    )
    return loaded, result


def _stored(job: Job) -> CategoryResult:
    """The result of a version that is complete already."""
    key = job.config.workspace, job.category, job.version
    calibration = artefact.read_calibration(*key, 1)
    result = _result(job, "up_to_date", artefact.read_card(*key), calibration)
    doubts = [calibration.warning] if calibration.warning else []
    return replace(result, warnings=[*job.warnings, *doubts])


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
        no_student=str(card.data.get("no_student", "")),
    )


def _marks(
    job: Job, loaded: LoadedModel | None, fitted: _Fitted | None, probe: TrialHook
) -> Mapping[str, Any]:
    loaded = loaded or _load(job)
    if fitted is not None:
        good, split = fitted.images.good, fitted.split
        samples = [good[n].sample for n in split.on("validation")]
    else:
        sides = artefact.read_sides(job.config.workspace, job.category, job.version)
        samples = [one.sample for one in job.good if sides.get(one.digest) == "validation"]
    return probe.marks(loaded.model, samples, loaded.calibration.threshold)


def _load(job: Job) -> LoadedModel:
    """A version that an earlier start saved, on the device to score on."""
    loaded = save_load.load(job.config.workspace, job.category, job.version)
    loaded.model.to(device.choose(job.config.train.device, "float32").device)
    return loaded


def _decide(job: Job, samples: Sequence[Sample], loaded: LoadedModel | None) -> dict[str, Any]:
    """The gate's decision on a version, which is stored: the version is promoted, or held.

    A version is judged once: one that a person has since replaced by another stays replaced.
    """
    workspace, category, version = job.config.workspace, job.category, job.version
    past = promotions.promotions(workspace, category)
    for promotion in reversed(past):
        if promotion.version == version:
            return dict(promotion.gate or {"state": "passed", "reason": promotion.why})
    held = promotions.holds(workspace, category)
    if version in held:
        return dict(held[version].gate)
    # None: saved by a start that was killed before its gate.
    loaded = loaded or _load(job)
    by_line, carried = carried_over(job, past[-1], loaded) if past else (None, "")
    verdict = gate.judge(
        workspace,
        replace(loaded, calibration=by_line) if by_line else loaded,
        past[-1] if past else None,
        samples=samples,
        good=[(one.sample, one.digest) for one in job.good if one.calibrates],
        max_images=job.config.fleet.gate_images,
    )
    by = f"train {job.config.run}"
    if verdict.state == "held":
        promotions.hold(
            workspace, category, version, by=by, reason=verdict.reason, gate=verdict.record
        )
    else:
        number = None
        if by_line:
            number = artefact.add_calibration(workspace, category, version, by_line).number
        if carried:
            commissioned = {"calibration": number, "reason": carried}
            verdict = replace(verdict, record={**verdict.record, "commissioned": commissioned})
        why = "first" if verdict.state == "first" else "retrained"
        promotions.promote(
            workspace,
            category,
            version,
            calibration=number or 1,
            by=by,
            why=why,
            gate=verdict.record,
            # A version that was promoted meanwhile has not been compared with this one.
            after=past[-1].number if past else 0,
        )
    return verdict.record
