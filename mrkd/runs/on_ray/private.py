"""Private parts of Ray that mrkd uses: in this module alone, each with a test.

A new version of Ray is checked by `tests/on_ray/test_private.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.core.generated import autoscaler_pb2
from ray.exceptions import RayError
from ray.train.v2._internal.exceptions import RayTrainError
from ray.train.v2.api.config import LoggingConfig, RunConfig
from ray.train.v2.api.exceptions import TrainingFailedError

__all__ = ["LoggingConfig", "RunConfig", "TrainingFailedError"]

DATA_PROGRESS_LOGGER = "ray.data._internal.progress"
"""Logger by which Ray Data warns that its progress bars are off."""
IDLE_WORKER_VARIABLE = "RAY_idle_worker_killing_time_threshold_ms"
"""Variable of a raylet: milliseconds after which a surplus worker that idles is ended."""
LOW_MEMORY = "due to the node running low on memory"
"""Part of Ray's message about a worker that it has ended for its node's memory.

Ray Tune keeps only the text of an error that is not a task's or an actor's.
"""


def autoscaled_groups() -> list[tuple[Mapping[str, float], int]]:
    """Resources of a node of each kind that an autoscaler may add, and how many there may be.

    Ray Train itself asks this before it waits for workers: a cluster whose GPU nodes are asleep
    has none among its live ones.
    """
    config = ray._private.state.state.get_cluster_config()
    groups = config.node_group_configs if config else []
    return [(dict(group.resources), group.max_count) for group in groups if group.max_count > 0]


def report_groups(groups: Sequence[tuple[Mapping[str, float], int]]) -> None:
    """Stores the kinds of nodes where `autoscaled_groups`, Ray Data and Ray Train find them."""
    messages: Any = autoscaler_pb2  # without types of its own, as is the worker
    config = messages.ClusterConfig()
    for number, (resources, most) in enumerate(groups):
        group = config.node_group_configs.add(name=str(number), max_count=most)
        for name, value in resources.items():
            group.resources[name] = math.ceil(value)
    worker: Any = ray._private.worker.global_worker
    worker.gcs_client.report_cluster_config(config.SerializeToString())


def worker_exceptions(error: TrainingFailedError) -> list[BaseException]:
    """The exceptions that workers of a group raised, without the losses that Ray reports."""
    failures: Mapping[Any, BaseException] = getattr(error, "worker_failures", {})
    return [one for one in failures.values() if not isinstance(one, RayError | RayTrainError)]
