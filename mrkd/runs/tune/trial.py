"""Workers of a search: each trains one config on a category, or tests a category's winner."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Any

import torch

from mrkd.config import SearchConfig
from mrkd.data import datasets
from mrkd.data.datasets import Sample
from mrkd.errors import CategoryError, MemoryShortError, MrkdError
from mrkd.evaluation import metrics
from mrkd.evaluation.metrics import Metric
from mrkd.model import artefact, device
from mrkd.model.artefact import save_load
from mrkd.model.detector import Detector
from mrkd.runs.attempts import one_line
from mrkd.storage.thread_map import in_threads
from mrkd.training.category import TrialHook, good_samples, train_category
from mrkd.training.search import Search, Trial
from mrkd.training.search.objective import (
    By,
    EvalSet,
    Objective,
    ask_labelled,
    ask_synthetic,
    labelled_parts,
)

log = logging.getLogger(__name__)

Tell = Callable[[Mapping[str, Any]], None]
"""Takes `epoch` and `objective` of a training at a rung."""

_TEST_SEED = 2
"""Seed of the synthetic defects of the test, without labels: others than in trials."""


@dataclass(frozen=True)
class TrialTask:
    """Input of every training of a search: the samples of each category.

    Args:
        features_folder: folder, on each machine, where trainings share their teachers' features.
    """

    config: SearchConfig
    samples: Mapping[str, Sequence[Sample]]
    features_folder: str

    @property
    def search(self) -> Search:
        """The search's folder."""
        return Search(self.config)


def try_one(task: TrialTask, trial: Trial, tell: Tell = lambda row: None) -> Trial:
    """One training, or its stored result; a failure that a user can mend is a result too."""
    search = task.search
    stored = search.get(trial.category, trial.key, trial.seed)
    if stored and stored.has_ended:
        return stored
    # Rungs of before a search was killed are reported again: the scheduler needs them.
    for row in stored.rungs if stored else ():
        tell(_rung(row))
    trial = replace(stored, state="running") if stored else trial
    began, before_s = time.monotonic(), trial.seconds
    measure = _Measure(task, trial.category)

    def report(found: Mapping[str, Any]) -> None:
        row = {name: _finite(value) for name, value in found.items()}
        figures = " ".join(f"{k}={v:.6g}" for k, v in row.items() if v is not None)
        log.info("epoch_end category=%s config=%s %s", trial.category, trial.key, figures)
        trial.rows = [*(one for one in trial.rows if one["epoch"] < row["epoch"]), row]
        trial.seconds = before_s + time.monotonic() - began
        search.put(trial)
        if "objective" in row:
            tell(_rung(row))

    try:
        result = train_category(
            # Its version goes into the search's own folder.
            replace(task.config.trial(trial.values, trial.seed), workspace=search.uri),
            trial.category,
            task.samples[trial.category],
            report=report,
            checkpoints_uri=search.checkpoints_uri(trial),
            probe=TrialHook(
                measure,
                partial(_is_due, task.config),
                task.features_folder,
                # A search's own trials are not needed any more; refits are tested at the end.
                forgets=trial.seed == task.config.train.seed,
            ),
        )
        trial.state, trial.marks = "done", dict(result.marks)
        trial.version, trial.model_bytes = result.version, result.model_bytes
    except (MrkdError, torch.OutOfMemoryError) as error:
        short = isinstance(error, MemoryShortError | torch.OutOfMemoryError)
        fail(trial, error, out_of_memory=short)
    trial.seconds = before_s + time.monotonic() - began
    search.put(trial)
    return trial


def fail(trial: Trial, error: object, *, out_of_memory: bool) -> None:
    """Ends a trial by an error: `out_of_memory` where that was the reason, else `failed`."""
    trial.state = "out_of_memory" if out_of_memory else "failed"
    trial.error = one_line(error)[-500:]


def outcome(trial: Trial) -> float:
    """What a sampler learns from an ended trial; a failure counts as the worst result, 0."""
    rungs = trial.rungs if trial.state == "pruned" else ()
    return float(rungs[-1]["objective"] if rungs else trial.objective or 0.0)


def _finite(value: Any) -> Any:
    """The value, or None for an infinite number or NaN, which JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rung(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"epoch": row["epoch"] + 1, "objective": row["objective"]}


def _is_due(config: SearchConfig, epochs: int) -> bool:
    """Whether there is a rung after so many epochs."""
    options = config.search
    if options.scheduler == "none" or options.scope == "joint":
        return False
    rung = options.grace_epochs
    while rung < epochs:
        rung *= options.reduction
    return rung == epochs


class _Measure:
    """Measures a trial's model on a category's evaluation set, which it reads at the first call."""

    def __init__(self, task: TrialTask, category: str) -> None:
        self._task, self._samples = task, task.samples[category]
        self._objective: Objective | None = None

    def __call__(
        self, model: Detector, held_out: Sequence[Sample], threshold: float | None
    ) -> dict[str, Any]:
        config, samples = self._task.config, self._samples
        options = config.search
        if self._objective is None:
            if by(config, samples) == "labels":
                labelled = labelled_parts(samples)[0]
                eval_set = ask_labelled(labelled, model, max_images=options.max_images)
            else:
                eval_set = ask_synthetic(held_out, model, max_images=options.max_images)
            self._objective = Objective(eval_set, model, folder=self._task.features_folder)
        pixels = options.metric == "aupro" or threshold is not None
        marks = asdict(self._objective.marks(model, threshold=threshold, with_pixels=pixels))
        del marks["scores"]
        if marks[options.metric] is None:
            raise CategoryError(
                f"search.metric is {options.metric}, and no image it is measured by has a mask: "
                "set it to image_auroc"
            )
        return {"objective": marks[options.metric], **marks}


def by(config: SearchConfig, samples: Sequence[Sample]) -> By:
    """The kind of images that a category is measured by.

    Raises:
        CategoryError: the config wants labels, and the category lacks those of one kind.
    """
    labelled = bool(labelled_parts(samples)[0])
    if config.search.objective == "labels" and not labelled:
        raise CategoryError(
            "search.objective is labels, and it lacks good or defective labelled images in one of "
            "two halves: label some, or set it to synthetic"
        )
    return "labels" if labelled and config.search.objective != "synthetic" else "synthetic"


def test(task: TrialTask, category: str, trials: Mapping[str, Sequence[Trial]]) -> dict[str, Any]:
    """The test of `winner` and `default`, each with its trials by other seeds, on other images.

    Returns:
        Plain values: of each its image AUROC as a mean over its seeds with a 95 % interval over
        images, AUPRO, false-call rate; and the difference of the two, on the same images.
    """
    samples = task.samples[category]
    found: dict[str, Any] = {"by": by(task.config, samples)}
    scores: dict[str, list[tuple[float, ...]]] = {}
    eval_set: EvalSet | None = None
    for name, some in trials.items():
        if not some:  # every training of the default failed
            continue
        marks = []
        for trial in some:
            model, threshold, held_out = _load(task, trial)
            eval_set = _test_set(task, samples, model, held_out)
            marks.append(Objective(eval_set, model).marks(model, threshold=threshold))
        assert eval_set is not None
        scores[name] = [one.scores for one in marks]
        overlaps = [one.aupro for one in marks if one.aupro is not None]
        groups = eval_set.labels, eval_set.groups
        auroc = metrics.bootstrap_interval("image_auroc", scores[name], *groups)
        found[name] = {
            "image_auroc": _interval(auroc),
            "aupro": sum(overlaps) / len(overlaps) if overlaps else None,
            "false_call_rate": sum(one.false_call_rate or 0.0 for one in marks) / len(marks),
            "num_seeds": len(marks),
        }
    assert eval_set is not None
    difference = Metric(None)
    if "default" in scores:
        difference = metrics.paired_bootstrap(
            "image_auroc", scores["winner"], scores["default"], eval_set.labels, eval_set.groups
        )
    num_defective = int(eval_set.labels.sum())
    return found | {
        "difference": _interval(difference),
        "num_good": len(eval_set.labels) - num_defective,
        "num_defective": num_defective,
        "num_left_out": eval_set.num_left_out,
    }


def _load(task: TrialTask, trial: Trial) -> tuple[Detector, float, set[str]]:
    """A training's model, its threshold, and the sha256 of its calibration images."""
    version = task.search.uri, trial.category, trial.version
    loaded = save_load.load(*version)
    loaded.model.to(device.choose(task.config.train.device, "float32").device)
    sides = artefact.read_sides(*version)
    held_out = {digest for digest, side in sides.items() if side == "calibration"}
    return loaded.model, loaded.calibration.threshold, held_out


def _test_set(
    task: TrialTask, samples: Sequence[Sample], model: Detector, digests: set[str]
) -> EvalSet:
    """The evaluation set of the test, of other images than the trials'.

    It is the labelled half kept for the test or, without labels, the good images of the calibration
    side with other synthetic defects.
    """
    if by(task.config, samples) == "labels":
        rest = labelled_parts(samples)[1]
        return ask_labelled(rest, model, max_images=len(rest))
    good = good_samples(samples)
    found = in_threads(lambda one: sha256(datasets.read_image(one)).hexdigest(), good)
    held_out = [one for one, digest in zip(good, found, strict=True) if digest in digests]
    most = task.config.search.max_images
    return ask_synthetic(held_out, model, max_images=most, seed=_TEST_SEED)


def _interval(metric: Metric) -> dict[str, float | None]:
    return {"value": metric.value, "low": metric.low, "high": metric.high}
