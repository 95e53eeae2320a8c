"""Executor: does the work of a run, in this process or on Ray; runs know no other interface.

Implementations: `mrkd.runs.in_process.InProcess` and `mrkd.runs.on_ray.executor.OnRay`. Rows,
versions, digests and verdicts are equal to the bit under both, on one machine.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mrkd.config import ScoreConfig
from mrkd.nights.night import Night
from mrkd.runs.attempts import Attempt
from mrkd.runs.resources import Node, Resources
from mrkd.runs.shards.committer import Committer
from mrkd.runs.status import Gauge, Status
from mrkd.runs.trials import Report, TrialPlan
from mrkd.storage.lease import Lease

if TYPE_CHECKING:  # it loads torch, which the driver of a night on Ray does without
    from mrkd.runs.category_training import TrainingTask
    from mrkd.training.search import Trial


Work = Literal["", "train_each", "run_trials"]


class ExecutorChoice(Protocol):
    """An executor, or the choice of one once the length of the run is known."""

    @property
    def nodes(self) -> Sequence[Node]:
        """Nodes that work may be placed on; of a cluster within its `connected` block."""

    def for_work(self, seconds: Callable[[], float]) -> Executor:
        """The executor of a run that is forecast to take so many seconds on this machine."""


class Executor(ExecutorChoice, Protocol):
    """Makes the calls of a run; used within its `connected` block.

    Attributes:
        name: `ray` or `in_process`.
    """

    name: str

    def connected(self, work: Work = "", *, group_size: int = 1) -> AbstractContextManager[None]:
        """The block in which all other calls are made.

        Args:
            work: work besides `run_each` that is to be done: `train_each` or `run_trials`.
            group_size: workers of each training.

        Raises:
            ConfigError: the cluster does not answer.
        """

    def new_status(self) -> Status:
        """A status without reports, which tasks can carry to their workers."""

    def gauge(self, name: str, text: str, tags: tuple[str, ...]) -> Gauge:
        """A gauge with these tags."""

    def forget(self, folder: str, *, wait: bool = True) -> None:
        """Removes a folder on every node; without `wait` the removal goes on by itself."""

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
        """Calls a function in a worker for each category, as many at once as there is room for.

        Args:
            function: function that is called with `shared`, if any, and a category's arguments; an
                exception ends its own category alone.
            arguments: arguments by category, in the order in which the calls are started.
            resources: resources of each call.
            shared: first argument of every call, sent once.
            max_failures: number of further starts of a category whose worker or storage died, or
                whose device failed. Any other exception would be raised again, and ends it.
            backoff_s: seconds before it is started again; doubled with each further start.
            at_once: calls under way at one time; None: as many as there is room for.

        Yields:
            Every attempt as it ends. A caller that leaves before the last ends those under way.
        """

    def train_each(
        self,
        tasks: Mapping[str, TrainingTask],
        resources: Resources,
        *,
        group_size: int,
        max_failures: int,
        backoff_s: float,
    ) -> Generator[Attempt, None, None]:
        """Trains each category by `train_one`, alone or by a group of workers.

        Arguments as `run_each`, yields its attempts; `resources` are those of each worker.

        Raises:
            ConfigError: not even one group can be held.
        """

    def committer(self, night: Night, config: ScoreConfig, lease: Lease) -> Committer:
        """The committer of a night's shards.

        Raises:
            ConfigError: the cluster can never hold the scorers that the config asks for.
        """

    def run_trials(self, plan: TrialPlan, trainable: Callable[[Trial, Report], None]) -> None:
        """Makes the trainings of a plan's queue, and tells it the end of each.

        Args:
            plan: the queue and the placement of its trainings.
            trainable: function that makes a training and reports `epoch` and `objective` at rungs;
                the report may end it by an exception.
        """
