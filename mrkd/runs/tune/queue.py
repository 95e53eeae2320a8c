"""Queue of a search: draws the configs of all its groups, and hands out one training at a time.

Groups (a category each, or all categories under `scope = "joint"`) are searched side by side: the
next draw is that of the group with the fewest draws so far. What a trial draws depends on the seed,
its number and certain results alone, neither on the room of a cluster nor on a kill:

- `random` draws without results.
- `tpe` draws trial n once the trials 0 to n - `search.draws_ahead` have ended, and learns from
  these, in the order of their numbers, and from no others that may have ended before.

The result of a trial is read from what is stored of it, whether it ended now or in an earlier
start. With `asha` the order in which trials reach a rung decides which of them end there, so draws
of `tpe` are repeated from what is stored, but two searches are equal only with one trial at a time.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mrkd.runs.attempts import Attempt
from mrkd.runs.trials import Rungs
from mrkd.runs.tune import trial as trainings
from mrkd.training.search import Search, Trial, key_of
from mrkd.training.search.sampler import Sampler


@dataclass
class Group:
    """Categories that share their configs.

    Args:
        categories: names of the categories.
        sampler: draws the configs.
        num_trials: number of configs to draw.
        draws_ahead: number of trials from whose first on a draw waits for no result; None: a draw
            waits for none at all.
        rungs: rungs at which trainings end early; None: none do.
        ended: called with the objective of each trial that ended.
    """

    categories: Sequence[str]
    sampler: Sampler
    num_trials: int
    draws_ahead: int | None
    rungs: Rungs | None
    ended: Callable[[float], None] = lambda objective: None
    _drawn: list[dict[str, Any]] = field(default_factory=list)
    _told: int = 0
    _objectives: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def num_drawn(self) -> int:
        """Number of configs drawn so far."""
        return len(self._drawn)

    @property
    def num_ended(self) -> int:
        """Number of trials that ended."""
        return sum(self._objective(values) is not None for values in self._drawn)

    @property
    def may_draw(self) -> bool:
        """Whether a config is left to draw, and the results that it depends on are known."""
        if self.num_drawn >= self.num_trials:
            return False
        needed = self._drawn[self._told : self._num_needed]
        return all(self._objective(values) is not None for values in needed)

    def draw(self) -> dict[str, Any]:
        """The values of the next trial."""
        while self._told < self._num_needed:
            objective = self._objective(self._drawn[self._told])
            assert objective is not None
            self.sampler.tell(str(self._told), objective)
            self._told += 1
        values = self.sampler.ask(str(self.num_drawn))
        self._drawn.append(values)
        return values

    def put(self, ended: Trial) -> None:
        """Takes a training that ended; it is that of every trial that drew its config."""
        before = self._objective(ended.values)
        self._objectives.setdefault(ended.key, {})[ended.category] = trainings.outcome(ended)
        objective = self._objective(ended.values)
        if before is None and objective is not None:
            self.ended(objective)

    @property
    def _num_needed(self) -> int:
        """Number of trials from whose results the next one is drawn."""
        return 0 if self.draws_ahead is None else max(0, self.num_drawn - self.draws_ahead + 1)

    def _objective(self, values: Mapping[str, Any]) -> float | None:
        """The mean over the categories; None where one has not ended."""
        found = self._objectives.get(key_of(values), {})
        if len(found) < len(self.categories):
            return None
        return sum(found[name] for name in self.categories) / len(found)


class Queue:
    """`TrialQueue` of the groups of a search; a training that is stored as ended is not given.

    Args:
        search: folder of the search.
        groups: groups that are searched.
        left_s: seconds after which it gives no training; infinite without a budget.
    """

    def __init__(self, search: Search, groups: Sequence[Group], *, left_s: float) -> None:
        self._search, self._groups = search, groups
        self._group_of = {name: group for group in groups for name in group.categories}
        self._seed = search.config.train.seed
        self._stored = {
            (one.category, one.key): one for one in search.trials() if one.seed == self._seed
        }
        self._given: set[tuple[str, str]] = set()
        self._ready: deque[Trial] = deque()
        self._lock = threading.Lock()
        self._rungs_passed: set[tuple[str, str, int]] = set()
        self._began, self._spent_s = time.monotonic(), search.get_spent_s()
        self._until = self._began + left_s

    @property
    def has_rungs(self) -> bool:
        """Whether `is_below` may end a training."""
        return any(group.rungs for group in self._groups)

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._until

    @property
    def is_done(self) -> bool:
        """Whether `take` never gives another training."""
        self._fill()
        all_drawn = all(group.num_drawn >= group.num_trials for group in self._groups)
        return self.is_over or (all_drawn and not self._ready)

    def take(self) -> Trial | None:
        """The next training; None where none is left, or another has to end first."""
        self._fill()
        return self._ready.popleft() if self._ready and not self.is_over else None

    def count(self) -> tuple[int, int]:
        """Numbers of trials that ended, now or before, and of trials in all."""
        while group := self._next_group():
            self._draw(group)
        groups = self._groups
        return sum(one.num_ended for one in groups), sum(one.num_trials for one in groups)

    def _fill(self) -> None:
        """Draws until a training is ready that is not stored, as far as results are known."""
        while not self._ready and (group := self._next_group()):
            self._draw(group)

    def _next_group(self) -> Group | None:
        may_draw = [group for group in self._groups if group.may_draw]
        return min(may_draw, key=lambda group: group.num_drawn, default=None)

    def _draw(self, group: Group) -> None:
        values = group.draw()
        for category in group.categories:
            one = Trial(category, values, self._seed)
            where = category, one.key
            if where in self._given:  # drawn before
                continue
            self._given.add(where)
            if stored := self._stored.get(where):
                for row in stored.rungs:
                    self.is_below(stored, row["epoch"] + 1, row["objective"])
                group.put(stored)
            else:
                self._ready.append(one)

    def end(self, trial: Trial, end: Attempt) -> None:
        """Stores a training that did not end by itself, and the time spent so far."""
        self._search.put_spent_s(self._spent_s + time.monotonic() - self._began)
        if ended := end_trial(self._search, trial, end):
            self._group_of[trial.category].put(ended)

    def is_below(self, trial: Trial, epoch: int, objective: float) -> bool:
        """Whether a training is ended at a rung; one that started again passes rungs it passed."""
        rungs, passed = self._group_of[trial.category].rungs, (trial.category, trial.key, epoch)
        with self._lock:
            if rungs is None or passed in self._rungs_passed:
                return False
            self._rungs_passed.add(passed)
            return rungs.is_below(epoch, objective)


def end_trial(search: Search, begun: Trial, end: Attempt) -> Trial | None:
    """Ends a trial that did not end by itself: an error ended its process, or a rung the trial.

    Returns:
        The trial as it is stored; None where it neither began nor failed.
    """
    stored = search.get(begun.category, begun.key, begun.seed)
    if (stored and stored.has_ended) or not (stored or end.error):
        return stored
    stored = stored or begun
    stored.state = "pruned"
    if end.error:
        trainings.fail(stored, end.error, out_of_memory=end.out_of_memory)
    search.put(stored)
    return stored
