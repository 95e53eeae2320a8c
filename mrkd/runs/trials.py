"""Trials of a search: what an executor is given to draw and try, and the rungs that end some."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mrkd.runs.resources import Resources
from mrkd.training.search.sampler import Sampler

Report = Callable[[Mapping[str, Any]], None]
"""Takes `epoch` and `objective` of a trial under way."""


@dataclass(frozen=True)
class TrialPlan:
    """Trials that share a space.

    Args:
        sampler: draws their configs.
        num_trials: number of trials.
        resources: resources of each.
        at_once: most trials under way at one time; None: as many as there is room for.
        max_failures: number of further starts of a trial whose process crashed.
        rungs: rungs at which trials end early; None: none do.
        ended: function that is called with the last objective of each trial, 0 of one that failed.
    """

    sampler: Sampler
    num_trials: int
    resources: Resources
    at_once: int | None
    max_failures: int
    rungs: Rungs | None
    ended: Callable[[float], None]


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
