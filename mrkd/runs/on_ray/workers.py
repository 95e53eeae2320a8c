"""Workers of a fleet: each trains one category, alone or as one of a group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ray
import ray.train
from ray.train import ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.metrics import Gauge

from mrkd.errors import MrkdError
from mrkd.runs.category_training import TrainingTask, read_one, train_one
from mrkd.runs.on_ray import cluster, private
from mrkd.runs.resources import Resources
from mrkd.training.category import CategoryResult
from mrkd.training.category.split_images import ReadImages
from mrkd.training.fit.process_group import ProcessGroup

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


def read(task: TrainingTask, resources: Resources) -> ReadImages:
    """The good images of a category: reads and decodes them while no GPU is held for it."""
    cluster.log_to_driver()
    return read_one(task)


def train(
    task: TrainingTask, resources: Resources, images: ReadImages | None = None
) -> CategoryResult:
    """Trains a category in this process, a slot that holds the worker's resources."""
    # Local mode calls the loop in this very process, so its result needs no transport.
    results: list[CategoryResult | None] = []

    def loop() -> None:
        publisher = _publisher(task, is_first=True)
        results.append(train_one(task, ProcessGroup(), publisher, images))

    scaling = ScalingConfig(num_workers=0, use_gpu=_on_gpu(task, resources))
    TorchTrainer(loop, scaling_config=scaling).fit()
    (result,) = results
    assert result
    return result


def train_in_group(task: TrainingTask, resources: Resources, size: int) -> CategoryResult:
    """Trains a category by a group of workers; this process, a task that holds nothing, waits.

    Raises:
        Exception: the exception of a worker; RuntimeError where one of them, or the controller,
            crashed.
    """

    def loop() -> Any:
        cluster.enter_worker(resources)
        group = ProcessGroup.current()
        return train_one(task, group, _publisher(task, is_first=group.rank == 0))

    # Typed by hand: the stubs of ray.train are those of its first version.
    run_config: Any = private.RunConfig(
        name="ray_train",
        storage_path=task.checkpoints_uri,
        logging_config=private.LoggingConfig(log_level="ERROR"),
    )
    scaling: dict[str, Any] = {
        "num_workers": size,
        "use_gpu": bool(resources.gpus),
        "resources_per_worker": resources.by_name,
        "label_selector": cluster.label_selector(resources.labels) or None,
    }
    trainer = TorchTrainer(
        loop,
        scaling_config=ScalingConfig(**scaling),
        torch_config=TorchConfig(backend="nccl" if _on_gpu(task, resources) else "gloo"),
        run_config=run_config,
    )
    try:
        fitted: Any = trainer.fit()
    except private.TrainingFailedError as error:
        raise _cause(error) from error
    result: CategoryResult = fitted.return_value
    return result


def _cause(error: private.TrainingFailedError) -> BaseException:
    """The exception that ended a group: a worker's own, else that the group was lost."""
    raised = private.worker_exceptions(error)
    ours = [cause for cause in raised if isinstance(cause, MrkdError)]
    return (ours or raised or [RuntimeError(f"its group of workers was lost: {error}")])[0]


def _publisher(task: TrainingTask, *, is_first: bool) -> Callable[[Mapping[str, Any]], None]:
    """Publishes the figures of an epoch: to Ray Train, and by the first worker as gauges."""
    texts = _GAUGES if is_first else {}
    gauges = {
        name: Gauge(f"mrkd_training_{name}", text, ("run", "category"))
        for name, text in texts.items()
    }

    def publish(row: Mapping[str, Any]) -> None:
        for name, gauge in gauges.items():
            gauge.set(row[name], tags={"run": task.config.run, "category": task.category})
        ray.train.report(dict(row))

    return publish


def _on_gpu(task: TrainingTask, resources: Resources) -> bool:
    return resources.gpus > 0 and task.config.train.device != "cpu"
