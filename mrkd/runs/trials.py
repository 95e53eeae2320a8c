"""Trials of a search: the queue that an executor takes trainings from, and rungs that end some."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mrkd.runs.attempts import Attempt, Handle, PlacedCalls, Tries
from mrkd.runs.resources import Resources

if TYPE_CHECKING:
    from mrkd.training.search import Trial

log = logging.getLogger(__name__)

_WAIT_S = 30.0

Report = Callable[[Mapping[str, Any]], None]
"""Takes `epoch` and `objective` of a training at a rung."""


class TrialQueue(Protocol):
    """Trainings of a search, in the order in which they begin; used by one thread."""

    @property
    def has_rungs(self) -> bool:
        """Whether `is_below` may end a training."""

    @property
    def is_done(self) -> bool:
        """Whether `take` never gives another training."""

    def take(self) -> Trial | None:
        """The next training; None where none is left, or another has to end first."""

    def end(self, trial: Trial, end: Attempt) -> None:
        """Takes the end of a training that `take` gave; called before the next `take`."""

    def is_below(self, trial: Trial, epoch: int, objective: float) -> bool:
        """Whether a training is ended at the rung that it reports; called from any thread."""


@dataclass(frozen=True)
class TrialPlan:
    """A queue of trainings, and their placement.

    Args:
        queue: gives the trainings.
        resources: resources of each.
        at_once: most trainings under way at one time; None: as many as there is room for.
        max_failures: number of further starts of a training whose process crashed.
    """

    queue: TrialQueue
    resources: Resources
    at_once: int | None
    max_failures: int


def run_queue(calls: PlacedCalls[Handle], plan: TrialPlan, started: dict[str, Trial]) -> None:
    """Makes a call for each training of a plan, until all have ended.

    Args:
        calls: calls of an executor, which know a training by its name in `started`.
        plan: trainings; `at_once` is a number.
        started: trainings by name, which this function fills before it starts them.
    """
    assert plan.at_once is not None
    running: dict[Handle, tuple[str, int]] = {}
    again: list[tuple[str, int]] = []
    tries = Tries(plan.max_failures)
    try:
        while True:
            while len(running) < plan.at_once:
                if not again:
                    trial = plan.queue.take()
                    if trial is None:
                        break
                    name = str(len(started))
                    started[name] = trial
                    again.append((name, 1))
                name, number = again.pop()
                running[calls.start(name)] = name, number
            if not running:
                return
            for handle in calls.wait(list(running), _WAIT_S):
                name, number = running.pop(handle)
                attempt = tries.counted(calls.end(handle, name, number))
                if attempt.error:
                    category, error = started[name].category, attempt.error
                    log.error("failed category=%s attempt=%d error=%s", category, number, error)
                if attempt.last:
                    plan.queue.end(started[name], attempt)
                else:
                    again.append((name, number + 1))
    finally:
        calls.cancel(list(running))


@dataclass
class Rungs:
    """Asynchronous successive halving (Li et al., 2018, arXiv:1810.05934), as Ray Tune's `ASHA`.

    Args:
        grace: epochs before the first rung.
        reduction: factor of epochs between rungs, and the number of trials of which one goes on.
    """

    grace: int
    reduction: int
    _reached: defaultdict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def is_below(self, epoch: int, objective: float) -> bool:
        """Whether a trial that reports now is not among the best that reached its rung so far."""
        rung = self.grace
        while rung * self.reduction <= epoch:
            rung *= self.reduction
        if epoch != rung:
            return False
        earlier = self._reached[rung]
        cutoff = np.nanpercentile(earlier, (1 - 1 / self.reduction) * 100) if earlier else -np.inf
        earlier.append(objective)
        return bool(objective < cutoff)
