"""What an evaluation's workers do: one arm on one category with one seed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from mrkd import storage
from mrkd.config import EvalConfig, TrainConfig
from mrkd.data.datasets import Sample
from mrkd.errors import MrkdError, StorageError
from mrkd.evaluation.ablation import Run, Study, Variant, images_of
from mrkd.evaluation.evaluate_model import Evaluator, judge_of, measure
from mrkd.model import artefact
from mrkd.on_ray import cluster
from mrkd.on_ray.cluster import Resources
from mrkd.storage import schema
from mrkd.training.category import TrialHook, fit_nearest, train_category

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VariantTask:
    """One run.

    Args:
        config: of the evaluation.
        arm: what is fitted.
        run: which it is, so far without an end.
        samples: of its category.
        ask: what a worker takes of its node.
        features_folder: of each machine, where runs share what their teachers say.
    """

    config: EvalConfig
    arm: Variant
    run: Run
    samples: Sequence[Sample]
    ask: Resources
    features_folder: str

    @property
    def study(self) -> Study:
        """The folder."""
        return Study(self.config)

    @property
    def training(self) -> TrainConfig:
        """What is trained, into the evaluation's own folder."""
        training = self.arm.training(self.config, self.run.category, self.run.seed)
        return replace(training, workspace=self.study.uri)


def work(order: VariantTask) -> Run:
    """Fits and measures, and stores what came of it; a failure that a user can mend is a result.

    Raises:
        StorageError: a place is out of reach for now.
    """
    cluster.enter_worker(order.ask)
    began, run = time.monotonic(), order.run
    figures = scores = None
    try:
        judge, told = _fit(order)
        within = replace(order.config, workspace=order.study.uri)
        measured = measure(judge, within, run.category, order.samples)
        figures, scores = measured.metrics, measured.scores
        run = replace(
            run,
            **told,
            images=images_of(scores),
            model=dict(measured.model),
            leaks=[asdict(leak) for leak in measured.leaks],
        )
    except StorageError as error:
        if error.kind == "unreachable":
            raise
        run = replace(run, error=_line(error))
    except MrkdError as error:
        run = replace(run, error=_line(error))
    run = replace(run, seconds=time.monotonic() - began)
    order.study.put(run, figures, scores)
    return run


def _fit(order: VariantTask) -> tuple[Evaluator, dict[str, Any]]:
    """The model to measure, and what is to be said of its fitting."""
    run, config = order.run, order.training
    if order.arm.kind == "nearest_neighbour":
        own = config.for_category(run.category)
        memory, calibration = fit_nearest(own, order.samples, features_folder=order.features_folder)
        return Evaluator(memory, calibration, "", run.seed, run.key), {}

    def report(row: Mapping[str, Any]) -> None:
        log.info("epoch_end category=%s arm=%s %s", run.category, order.arm.name, dict(row))

    result = train_category(
        config,
        run.category,
        order.samples,
        report=report,
        checkpoints_uri=order.study.checkpoints_uri(run.key, run.category, run.seed),
        probe=TrialHook.silent(order.features_folder),
    )
    judge = judge_of(replace(order.config, workspace=order.study.uri), run.category, result.version)
    return judge, {
        "model_bytes": result.model_bytes,
        "history": _history(order.study.uri, run.category, result.version),
    }


def _history(workspace: str, category: str, version: str) -> list[dict[str, float]]:
    folder = artefact.folder_of(workspace, category, version)
    uri = storage.join(folder, "history.parquet")
    rows: pa.Table = schema.from_parquet(storage.read(uri), name=uri)
    found: list[dict[str, float]] = rows.to_pylist()
    return found


def _line(error: MrkdError) -> str:
    return " ".join(str(error).split())
