"""Executor on Ray: slots for categories, Ray Train for groups, Ray Data for nights, Ray Tune."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Self

import ray
from ray.util.metrics import Gauge
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mrkd.config import ScoreConfig
from mrkd.nights.night import Night
from mrkd.runs.attempts import Attempt
from mrkd.runs.on_ray import cluster, status_actor
from mrkd.runs.on_ray.score.passes import RayCommitter
from mrkd.runs.on_ray.slots import run_each
from mrkd.runs.on_ray.status_actor import ActorStatus
from mrkd.runs.resources import (
    Node,
    Resources,
    groups_at_once,
    has_room_beside,
    scorer_pool,
)
from mrkd.runs.trials import Report, TrialPlan
from mrkd.storage.lease import Lease

if TYPE_CHECKING:  # what loads torch, which the driver of a night does without
    from mrkd.runs.category_training import TrainingTask
    from mrkd.runs.executor import Executor
    from mrkd.training.search import Trial

_FORGET_S = 60.0
_MOST_PIXEL_BYTES = 2 * 2**30
"""Pixels of a category that are read ahead of its training."""


class OnRay:
    """`Executor` on the Ray of this process, the cluster at `RAY_ADDRESS`, or a local one.

    Args:
        num_cpus: number of CPUs of a local Ray; None: all of the machine's.
    """

    name = "ray"

    def __init__(self, *, num_cpus: int | None = None) -> None:
        self._num_cpus = num_cpus

    def for_work(self, seconds: Callable[[], float]) -> Self:
        """Itself."""
        return self

    def connected(self, work: str = "", *, group_size: int = 1) -> AbstractContextManager[None]:
        """The block in which a Ray is there; what the work needs is imported before."""
        if work == "train_each":  # it loads torch, which the driver of a night does without
            importlib.import_module("mrkd.runs.on_ray.workers")
        elif work == "run_trials":  # Tune takes seconds
            importlib.import_module("mrkd.runs.on_ray.search")
        # Ray Train learns from the dashboard that a group's controller crashed, and frees its
        # workers.
        return cluster.connect(num_cpus=self._num_cpus, dashboard=group_size > 1)

    @property
    def nodes(self) -> Sequence[Node]:
        """Every live node, and each kind that an autoscaler may add."""
        return cluster.nodes()

    def new_status(self) -> ActorStatus:
        """A status actor."""
        return ActorStatus(status_actor.start())

    def gauge(self, name: str, text: str, tags: tuple[str, ...]) -> Gauge:
        """A gauge that Ray exports for Prometheus."""
        return Gauge(name, text, tags)

    def forget(self, folder: str, *, wait: bool = True) -> None:
        """Removes a folder on every node."""
        remove: Any = ray.remote(shutil.rmtree)
        done = [
            remove.options(
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote(folder, ignore_errors=True)
            for node in ray.nodes()  # type: ignore[no-untyped-call]
            if node["Alive"]
        ]
        if wait:
            ray.wait(done, num_returns=len(done), timeout=_FORGET_S)

    def run_each(
        self,
        function: Callable[..., Any],
        arguments: Mapping[str, tuple[Any, ...]],
        resources: Resources,
        *,
        shared: Any = None,
        max_failures: int,
        backoff_s: float = 0.0,
        at_once: int | None = None,
    ) -> Generator[Attempt, None, None]:
        """A slot for each call under way."""
        if shared is not None:
            sent = ray.put(shared)
            arguments = {name: (sent, *own) for name, own in arguments.items()}
        return run_each(
            function,
            arguments,
            resources,
            max_failures=max_failures,
            backoff_s=backoff_s,
            at_once=at_once,
        )

    def train_each(
        self,
        tasks: Mapping[str, TrainingTask],
        resources: Resources,
        *,
        group_size: int,
        max_failures: int,
        backoff_s: float,
    ) -> Generator[Attempt, None, None]:
        """Ray Train's local mode in slots, or slots that each wait for a group."""
        from mrkd.runs.category_training import pixel_bytes
        from mrkd.runs.on_ray import workers

        options: dict[str, Any] = {"max_failures": max_failures, "backoff_s": backoff_s}
        if group_size == 1:
            alone = {name: (task, resources) for name, task in tasks.items()}
            # A GPU is not held while images are read; pixels that no object store bears are read
            # by the slot itself, which maps them.
            most = max(map(pixel_bytes, tasks.values()), default=0)
            ahead = resources.gpus and most <= _MOST_PIXEL_BYTES
            ahead = ahead and has_room_beside(self.nodes, resources)
            before = workers.read if ahead else None
            return run_each(workers.train, alone, resources, before=before, **options)
        return run_each(
            workers.train_in_group,
            {name: (task, resources, group_size) for name, task in tasks.items()},
            resources,
            # A group's workers are not part of the slot that waits for them: Ray cannot count them.
            at_once=groups_at_once(self.nodes, resources, group_size),
            environment=workers.group_environment(),
            held=Resources(0.0),
            **options,
        )

    def committer(self, night: Night, config: ScoreConfig, lease: Lease) -> RayCommitter:
        """A committer by passes of Ray Data."""
        found = self.nodes
        return RayCommitter(night, config, lease, scorer_pool(found, config.pool), found)

    def run_trials(self, plan: TrialPlan, trainable: Callable[[Trial, Report], None]) -> None:
        """Trials of Ray Tune."""
        from mrkd.runs.on_ray.search import run_trials

        run_trials(plan, trainable)


def _is_one(executor: OnRay) -> Executor:
    """Holds the type checker to the protocol."""
    return executor
