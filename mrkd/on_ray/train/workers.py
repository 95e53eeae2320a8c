"""What a fleet's workers do: one category, alone or as a group."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
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
from mrkd.on_ray import cluster
from mrkd.on_ray.cluster import Resources
from mrkd.training.category import CategoryResult, assist, train_category
from mrkd.training.fit.process_group import ProcessGroup

log = logging.getLogger(__name__)


def group_environment() -> dict[str, str]:
    """Variables of `train_in_group` and of the controller and workers that it starts."""
    return {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        # What frees the workers of a controller that died looks for its cluster, and would take
        # any other Ray of the machine for it.
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
    }


@dataclass(frozen=True)
class TrainingTask:
    """One category to train.

    Args:
        config: of the fleet.
        category: its name.
        samples: all of the category's.
        checkpoints_uri: folder of its checkpoints.
        ask: what a worker takes of its node.
        board: where workers say how far they are.
    """

    config: TrainConfig
    category: str
    samples: Sequence[Sample]
    checkpoints_uri: str
    ask: Resources
    board: Any


def train(order: TrainingTask) -> CategoryResult:
    """Trains a category in this process, which is a task that holds the worker's resources."""
    cluster.enter_worker(order.ask)
    # Local mode calls it in this very process, so that its result needs no way back.
    results: list[CategoryResult | None] = []

    def loop() -> None:
        results.append(_train(order, ProcessGroup()))

    TorchTrainer(loop, scaling_config=ScalingConfig(num_workers=0, use_gpu=_on_gpu(order))).fit()
    (result,) = results
    assert result
    return result


def train_in_group(order: TrainingTask) -> CategoryResult:
    """Trains a category by a group of workers; this process, a task that holds nothing, waits.

    Raises:
        Exception: what a worker raised; RuntimeError where one of them, or the controller, died.
    """
    cluster.enter_worker(order.ask)
    num_workers = order.config.fleet.workers_per_category
    resources = {"CPU": order.ask.cpus} | ({"GPU": order.ask.gpus} if order.ask.gpus else {})
    # Typed by hand: the stubs of ray.train are those of its first version.
    run_config: Any = RunConfig(
        name="ray_train",
        storage_path=order.checkpoints_uri,
        logging_config=LoggingConfig(log_level="ERROR"),
    )
    trainer = TorchTrainer(
        _group_loop(order),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=bool(order.ask.gpus),
            resources_per_worker=resources,
        ),
        torch_config=TorchConfig(backend="nccl" if _on_gpu(order) else "gloo"),
        run_config=run_config,
    )
    try:
        fitted: Any = trainer.fit()
    except TrainingFailedError as error:
        raise _cause(error) from error
    result: CategoryResult = fitted.return_value
    return result


def _cause(error: TrainingFailedError) -> BaseException:
    """What ended a group; where a worker raised something, the others say that they lost it."""
    failures = getattr(error, "worker_failures", {}).values()
    # Ray Train wraps what a worker raises, and has no public way to it.
    raised = [cause for one in failures if (cause := getattr(one, "_base_exc", None))]
    ours = [cause for cause in raised if isinstance(cause, MrkdError)]
    return (ours or raised or [RuntimeError(f"its group of workers was lost: {error}")])[0]


def _group_loop(order: TrainingTask) -> Callable[[], Any]:
    def loop() -> CategoryResult | None:
        cluster.enter_worker(order.ask)
        return _train(order, ProcessGroup.current())

    return loop


def _train(order: TrainingTask, group: ProcessGroup) -> CategoryResult | None:
    """One worker's share; the result of the category on the first."""
    first = group.rank == 0
    gauges = _Gauges(order.config.run, order.category) if first else None
    if first:
        order.board.put.remote(order.category, {})

    def report(row: Mapping[str, Any]) -> None:
        if gauges:
            figures = " ".join(f"{name}={value:.6g}" for name, value in row.items())
            log.info("epoch_end category=%s %s", order.category, figures)
            gauges.set(row)
            order.board.put.remote(order.category, dict(row))
        ray.train.report(dict(row))

    work = train_category if first else assist
    return work(
        order.config,
        order.category,
        order.samples,
        report=report,
        checkpoints_uri=order.checkpoints_uri,
        group=group,
    )


class _Gauges:
    """What Prometheus may know of one training."""

    def __init__(self, run: str, category: str) -> None:
        self._tags = {"run": run, "category": category}
        self._gauges = {
            name: Gauge(f"mrkd_training_{name}", description=text, tag_keys=("run", "category"))
            for name, text in (
                ("loss", "Training loss of the last epoch."),
                ("validation_loss", "Loss over held-out good images after the last epoch."),
                ("step", "Optimiser steps taken."),
            )
        }

    def set(self, row: Mapping[str, Any]) -> None:
        for name, gauge in self._gauges.items():
            gauge.set(row[name], tags=self._tags)


def _on_gpu(order: TrainingTask) -> bool:
    return order.ask.gpus > 0 and order.config.train.device != "cpu"
