"""What a search's workers do: one config on one category, or the last measure of its best."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Any

from mrkd.config import SearchConfig, TrainConfig
from mrkd.data import datasets
from mrkd.data.datasets import Sample
from mrkd.errors import CategoryError, MrkdError
from mrkd.evaluation import metrics
from mrkd.evaluation.metrics import Metric
from mrkd.model import artefact, device
from mrkd.model.artefact import save_load
from mrkd.model.detector import Detector
from mrkd.on_ray import cluster
from mrkd.on_ray.cluster import Resources
from mrkd.storage.thread_map import in_threads
from mrkd.training.category import CategoryResult, TrialHook, good_samples, train_category
from mrkd.training.search import Search, Trial
from mrkd.training.search import objective as exam
from mrkd.training.search.objective import EvalSet, Objective

log = logging.getLogger(__name__)

Tell = Callable[[Mapping[str, Any]], None]

# Of the defects that the winner is tested on, where there are no labels: others than in trials.
_TEST_SEED = 2


@dataclass(frozen=True)
class TrialTask:
    """What every training of a search needs.

    Args:
        config: of the search.
        samples: of each category.
        ask: what a worker takes of its node.
        features_folder: of each machine, where trainings share what their teachers say.
    """

    config: SearchConfig
    samples: Mapping[str, Sequence[Sample]]
    ask: Resources
    features_folder: str

    @property
    def search(self) -> Search:
        """The folder."""
        return Search(self.config)

    def training(self, trial: Trial) -> TrainConfig:
        """The config of a trial, whose version goes into the search's own folder."""
        config = self.config.trial(trial.values, trial.seed)
        return replace(config, workspace=self.search.uri)


def try_all(order: TrialTask, values: Mapping[str, Any], seed: int, tell: Tell) -> None:
    """Trains a config on every category of the order, unless it has been, and tells of it.

    Args:
        order: of the search.
        values: of the space.
        seed: to train with.
        tell: called with `epoch` and `objective` at every rung and at the end; with several
            categories at the end alone, with their mean.
    """
    alone = len(order.samples) == 1
    ended = [
        try_one(order, Trial(category, dict(values), seed), tell if alone else _nothing)
        for category in order.samples
    ]
    if not alone:
        found = [trial.objective or 0.0 for trial in ended]
        tell({"epoch": 1, "objective": sum(found) / len(found)})


def try_one(order: TrialTask, trial: Trial, tell: Tell = lambda row: None) -> Trial:
    """One training, or what is stored of it; a failure that a user can mend is its result."""
    cluster.enter_worker(order.ask)
    search = order.search
    stored = search.get(trial.category, trial.key, trial.seed)
    # What was told before a search was killed is told again: searcher and scheduler hang on it.
    told = {row["epoch"] for row in stored.rungs} if stored else set()
    for row in stored.rungs if stored else ():
        tell(_told(row))
    if stored and stored.has_ended:
        tell(_last(stored))
        return stored
    trial = replace(stored, state="running") if stored else trial
    began, before_s = time.monotonic(), trial.seconds
    examiner = _Examiner(order, trial.category)

    def report(found: Mapping[str, Any]) -> None:
        row = {name: _finite(value) for name, value in found.items()}
        figures = " ".join(f"{k}={v:.6g}" for k, v in row.items() if v is not None)
        log.info("epoch_end category=%s config=%s %s", trial.category, trial.key, figures)
        trial.rows = [*(one for one in trial.rows if one["epoch"] < row["epoch"]), row]
        trial.seconds = before_s + time.monotonic() - began
        search.put(trial)
        if "objective" in row and row["epoch"] not in told:
            tell(_told(row))

    try:
        result = train_category(
            order.training(trial),
            trial.category,
            order.samples[trial.category],
            report=report,
            checkpoints_uri=search.checkpoints_uri(trial),
            probe=TrialHook(
                examiner,
                partial(_is_due, order.config),
                order.features_folder,
                # Of a search's own trials nothing is asked any more; refits are tested at the end.
                forgets=trial.seed == order.config.train.seed,
            ),
        )
        _take(trial, result)
    except MrkdError as error:
        trial.state, trial.error = "failed", " ".join(str(error).split())
        if "memory runs out" in trial.error:
            trial.state = "out_of_memory"
    trial.seconds = before_s + time.monotonic() - began
    search.put(trial)
    tell(_last(trial))
    return trial


def _finite(value: Any) -> Any:
    """JSON knows no other numbers; a loss that diverged is none."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _take(trial: Trial, result: CategoryResult) -> None:
    trial.state, trial.marks = "done", dict(result.marks)
    trial.version, trial.model_bytes = result.version, result.model_bytes


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"epoch": row["epoch"] + 1, "objective": row["objective"]}


def _last(trial: Trial) -> dict[str, Any]:
    """A failure is told as the worst that there is, so that a searcher keeps away from it."""
    rungs = trial.rungs if trial.state == "pruned" else ()
    objective = rungs[-1]["objective"] if rungs else trial.objective or 0.0
    return {"epoch": len(trial.rows) + 1, "objective": objective}


def _nothing(row: Mapping[str, Any]) -> None:
    pass


def _is_due(config: SearchConfig, epochs: int) -> bool:
    """Whether a rung lies behind so many epochs."""
    options = config.search
    if options.scheduler == "none" or options.scope == "joint":
        return False
    rung = options.grace_epochs
    while rung < epochs:
        rung *= options.reduction
    return rung == epochs


class _Examiner:
    """Puts the questions of a category to a trial's model; they are read when first asked."""

    def __init__(self, order: TrialTask, category: str) -> None:
        self._order, self._samples = order, order.samples[category]
        self._exam: Objective | None = None

    def __call__(
        self, model: Detector, held_out: Sequence[Sample], threshold: float | None
    ) -> dict[str, Any]:
        options = self._order.config.search
        if self._exam is None:
            asked = questions(self._order.config, self._samples, held_out, model)
            self._exam = Objective(asked, model, folder=self._order.features_folder)
        pixels = options.metric == "aupro" or threshold is not None
        marks = asdict(self._exam.marks(model, threshold=threshold, with_pixels=pixels))
        del marks["scores"]
        if marks[options.metric] is None:
            raise CategoryError(
                f"search.metric is {options.metric}, and no image it is measured by has a mask: "
                "set it to image_auroc"
            )
        return {"objective": marks[options.metric], **marks}


def by(config: SearchConfig, samples: Sequence[Sample]) -> exam.By:
    """What a category is measured by.

    Raises:
        CategoryError: labels are asked for, and it has none of one kind.
    """
    labelled = bool(exam.labelled_parts(samples)[0])
    if config.search.objective == "labels" and not labelled:
        raise CategoryError(
            "search.objective is labels, and it lacks good or defective labelled images in one of "
            "two halves: label some, or set it to synthetic"
        )
    return "labels" if labelled and config.search.objective != "synthetic" else "synthetic"


def questions(
    config: SearchConfig, samples: Sequence[Sample], held_out: Sequence[Sample], model: Detector
) -> EvalSet:
    """What trials are asked."""
    most = config.search.max_images
    if by(config, samples) == "labels":
        return exam.ask_labelled(exam.labelled_parts(samples)[0], model, max_images=most)
    return exam.ask_synthetic(held_out, model, max_images=most)


def test(order: TrialTask, category: str, trials: Mapping[str, Sequence[Trial]]) -> dict[str, Any]:
    """What the winner and the default do on images that decided nothing.

    Args:
        order: of the search.
        category: its name.
        trials: `winner` and `default`, each with its trainings by other seeds.

    Returns:
        Plain values: of each its image AUROC as a mean over its seeds with a 95 % interval over
        images, AUPRO, false-call rate; of the two the difference, on the same images.
    """
    cluster.enter_worker(order.ask)
    samples = order.samples[category]
    found: dict[str, Any] = {"by": by(order.config, samples)}
    scores: dict[str, list[tuple[float, ...]]] = {}
    asked: EvalSet | None = None
    for name, some in trials.items():
        if not some:  # none of the default's trainings came to its end
            continue
        marks = []
        for trial in some:
            model, threshold, held_out = _load(order, trial)
            asked = _test_questions(order, samples, model, held_out)
            marks.append(Objective(asked, model).marks(model, threshold=threshold))
        assert asked is not None
        scores[name] = [one.scores for one in marks]
        overlaps = [one.aupro for one in marks if one.aupro is not None]
        auroc = metrics.bootstrap_interval("image_auroc", scores[name], asked.labels, asked.groups)
        found[name] = {
            "image_auroc": _interval(auroc),
            "aupro": sum(overlaps) / len(overlaps) if overlaps else None,
            "false_call_rate": sum(one.false_call_rate or 0.0 for one in marks) / len(marks),
            "num_seeds": len(marks),
        }
    assert asked is not None
    difference = Metric(None)
    if "default" in scores:
        difference = metrics.paired_bootstrap(
            "image_auroc", scores["winner"], scores["default"], asked.labels, asked.groups
        )
    num_defective = int(asked.labels.sum())
    return found | {
        "difference": _interval(difference),
        "num_good": len(asked.labels) - num_defective,
        "num_defective": num_defective,
        "num_left_out": asked.num_left_out,
    }


def _load(order: TrialTask, trial: Trial) -> tuple[Detector, float, set[str]]:
    """The model of a training, its threshold, and the files of its calibration side by sha256."""
    place = order.search.uri, trial.category, trial.version
    loaded = save_load.load(*place)
    loaded.model.to(device.choose(order.config.train.device, "float32").device)
    sides = artefact.read_sides(*place)
    held_out = {digest for digest, side in sides.items() if side == "calibration"}
    return loaded.model, loaded.calibration.threshold, held_out


def _test_questions(
    order: TrialTask, samples: Sequence[Sample], model: Detector, digests: set[str]
) -> EvalSet:
    """Other images than the trials'.

    The labelled half kept for the end or, without labels, the good images of the calibration side
    with other defects.
    """
    if by(order.config, samples) == "labels":
        rest = exam.labelled_parts(samples)[1]
        return exam.ask_labelled(rest, model, max_images=len(rest))
    good = good_samples(samples)
    found = in_threads(lambda one: sha256(datasets.read_image(one)).hexdigest(), good)
    held_out = [one for one, digest in zip(good, found, strict=True) if digest in digests]
    most = order.config.search.max_images
    return exam.ask_synthetic(held_out, model, max_images=most, seed=_TEST_SEED)


def _interval(metric: Metric) -> dict[str, float | None]:
    return {"value": metric.value, "low": metric.low, "high": metric.high}
