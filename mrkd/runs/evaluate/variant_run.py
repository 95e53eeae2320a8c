"""Workers of an ablation: each fits and measures one variant on one category with one seed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mrkd import storage
from mrkd.config import EvalConfig
from mrkd.data.datasets import Sample
from mrkd.errors import MrkdError, StorageError
from mrkd.evaluation.ablation import Run, Study, Variant, images_of
from mrkd.evaluation.evaluate_model import Evaluator, judge_of, measure
from mrkd.model import artefact
from mrkd.runs.attempts import one_line
from mrkd.storage import schema
from mrkd.training.category import TrialHook, fit_nearest, train_category

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VariantTask:
    """One run that has not ended: a variant to fit on a category's samples.

    Args:
        features_folder: folder, on each machine, where runs share their teachers' features.
    """

    config: EvalConfig
    variant: Variant
    run: Run
    samples: Sequence[Sample]
    features_folder: str

    @property
    def study(self) -> Study:
        """The evaluation's folder."""
        return Study(self.config)


def work(task: VariantTask) -> Run:
    """Fits, measures and stores the result; a failure that a user can mend is a result too.

    Raises:
        StorageError: storage is unreachable for now.
    """
    began, run = time.monotonic(), task.run
    figures = scores = None
    try:
        evaluator, facts = _fit(task)
        within = replace(task.config, workspace=task.study.uri)
        measured = measure(evaluator, within, run.category, task.samples)
        figures, scores = measured.metrics, measured.scores
        run = replace(
            run,
            **facts,
            images=images_of(scores),
            model=dict(measured.model),
            leaks=[asdict(leak) for leak in measured.leaks],
            left_out=list(measured.left_out),
            num_images=scores.num_rows,
            num_errors=measured.num_errors,
            errors=measured.errors,
        )
    except MrkdError as error:
        if isinstance(error, StorageError) and error.kind == "unreachable":
            raise
        run = replace(run, error=one_line(error))
    run = replace(run, seconds=time.monotonic() - began)
    task.study.put(run, figures, scores)
    return run


def _fit(task: VariantTask) -> tuple[Evaluator, dict[str, Any]]:
    """The fitted model to measure, and the fields of the run that its fitting gives."""
    run, study = task.run, task.study
    # Its version goes into the evaluation's own folder.
    training = task.variant.training(task.config, run.category, run.seed)
    config = replace(training, workspace=study.uri)
    if task.variant.kind == "nearest_neighbour":
        own = config.for_category(run.category)
        memory, calibration = fit_nearest(own, task.samples, features_folder=task.features_folder)
        return Evaluator(memory, calibration, "", run.seed, run.key), {}

    def report(row: Mapping[str, Any]) -> None:
        log.info("epoch_end category=%s arm=%s %s", run.category, task.variant.name, dict(row))

    result = train_category(
        config,
        run.category,
        task.samples,
        report=report,
        checkpoints_uri=study.checkpoints_uri(run.key, run.category, run.seed),
        probe=TrialHook.silent(task.features_folder),
    )
    within = replace(task.config, workspace=study.uri)
    evaluator = judge_of(within, run.category, result.version)
    folder = artefact.folder_of(study.uri, run.category, result.version)
    uri = storage.join(folder, "history.parquet")
    return evaluator, {
        "model_bytes": result.model_bytes,
        "history": schema.from_parquet(storage.read(uri), name=uri).to_pylist(),
    }
