"""Workers of a fleet: each trains one category, alone or as one of a group."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray.train import ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import LoggingConfig, RunConfig
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.util.metrics import Gauge

from mrkd.config import TrainConfig
from mrkd.data.datasets import Sample
from mrkd.errors import MrkdError
from mrkd.runs.on_ray import cluster
from mrkd.runs.on_ray.cluster import Resources
from mrkd.training.category import CategoryResult, assist, train_category
from mrkd.training.fit.process_group import ProcessGroup

log = logging.getLogger(__name__)

_GAUGES = {
    "loss": "Training loss of the last epoch.",
    "validation_loss": "Loss over held-out good images after the last epoch.",
    "step": "Optimiser steps taken.",
}
"""Descriptions of a training's gauges for Prometheus, by the column of its report."""


def group_environment() -> dict[str, str]:
    """Environment variables of `train_in_group`, and of the controller and workers it starts."""
    return {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        # The process that frees the workers of a crashed controller looks for its cluster, and
        # would take any other Ray of the machine for it.
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
    }


@dataclass(frozen=True)
class TrainingTask:
    """One category to train, with the resources of each worker and the status actor's handle."""

    config: TrainConfig
    category: str
    samples: Sequence[Sample]
    checkpoints_uri: str
    resources: Resources
    status: Any


def train(task: TrainingTask) -> CategoryResult:
    """Trains a category in this process, which is a task that holds the worker's resources."""
    cluster.enter_worker(task.resources)
    # Local mode calls the loop in this very process, so its result needs no transport.
    results: list[CategoryResult | None] = []

    def loop() -> None:
        results.append(_train(task, ProcessGroup()))

    TorchTrainer(loop, scaling_config=ScalingConfig(num_workers=0, use_gpu=_on_gpu(task))).fit()
    (result,) = results
    assert result
    return result


def train_in_group(task: TrainingTask) -> CategoryResult:
    """Trains a category by a group of workers; this process, a task that holds nothing, waits.

    Raises:
        Exception: the exception of a worker; RuntimeError where one of them, or the controller,
            crashed.
    """

    def loop() -> Any:
        cluster.enter_worker(task.resources)
        return _train(task, ProcessGroup.current())

    cluster.enter_worker(task.resources)
    # Typed by hand: the stubs of ray.train are those of its first version.
    run_config: Any = RunConfig(
        name="ray_train",
        storage_path=task.checkpoints_uri,
        logging_config=LoggingConfig(log_level="ERROR"),
    )
    trainer = TorchTrainer(
        loop,
        scaling_config=ScalingConfig(
            num_workers=task.config.fleet.workers_per_category,
            use_gpu=bool(task.resources.gpus),
            resources_per_worker=task.resources.by_name,
        ),
        torch_config=TorchConfig(backend="nccl" if _on_gpu(task) else "gloo"),
        run_config=run_config,
    )
    try:
        fitted: Any = trainer.fit()
    except TrainingFailedError as error:
        raise _cause(error) from error
    result: CategoryResult = fitted.return_value
    return result


def _cause(error: TrainingFailedError) -> BaseException:
    """The exception that ended a group: a worker's own, else that the group was lost."""
    failures = getattr(error, "worker_failures", {}).values()
    # Ray Train wraps a worker's exception, and has no public access to it.
    raised = [cause for one in failures if (cause := getattr(one, "_base_exc", None))]
    ours = [cause for cause in raised if isinstance(cause, MrkdError)]
    return (ours or raised or [RuntimeError(f"its group of workers was lost: {error}")])[0]


def _train(task: TrainingTask, group: ProcessGroup) -> CategoryResult | None:
    """One worker's share of a training; on the first worker the result of the category."""
    is_first = group.rank == 0
    gauges: dict[str, Gauge] = {}
    if is_first:
        task.status.report.remote(task.category, {})
        for name, text in _GAUGES.items():
            gauges[name] = Gauge(f"mrkd_training_{name}", text, ("run", "category"))

    def report(row: Mapping[str, Any]) -> None:
        if is_first:
            figures = " ".join(f"{name}={value:.6g}" for name, value in row.items())
            log.info("epoch_end category=%s %s", task.category, figures)
            for name, gauge in gauges.items():
                gauge.set(row[name], tags={"run": task.config.run, "category": task.category})
            task.status.report.remote(task.category, dict(row))
        ray.train.report(dict(row))

    work = train_category if is_first else assist
    return work(
        task.config,
        task.category,
        task.samples,
        report=report,
        checkpoints_uri=task.checkpoints_uri,
        group=group,
    )


def _on_gpu(task: TrainingTask) -> bool:
    return task.resources.gpus > 0 and task.config.train.device != "cpu"
