"""SEARCH.toml: a fleet's config, and the hyperparameter search over it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from mrkd.config import durations
from mrkd.config.toml import Config, Range
from mrkd.config.train import TrainConfig
from mrkd.errors import ConfigError


@dataclass(frozen=True)
class SearchOptions(Config, table="search"):
    """What a search tries, and the objective that compares its trials."""

    # Not a Uri: a search that is resumed is compared with what was written when it began.
    space: str = "quick"
    """Search space: a module of `tune_spaces`, or a Python file with such a `SPACE`."""
    scope: Literal["category", "joint"] = "category"
    """Whether each category has its own search, or all share one, where the best mean rank over the
    categories wins."""
    trials: Annotated[int, Range(1, 10**5)] = 24
    """Configs that each search tries."""
    time_budget: str = ""
    """Time that the trials of all categories may take, as in `2h`; after it no new one starts, and
    those under way end. A later start with more time goes on. Empty: no limit."""
    trials_at_once: Annotated[int, Range(0, 10**4)] = 0
    """Most trials that run at one time; 0: as many as the cluster has room for."""
    searcher: Literal["random", "tpe"] = "random"
    """How configs are drawn; `tpe` learns from earlier trials (Optuna, an extra)."""
    draws_ahead: Annotated[int, Range(1, 10**4, "trials")] = 4
    """Trials of one search that `tpe` has under way at most: it draws the next one once the trial
    so many before it, and all earlier ones, have ended, and learns from these alone."""
    scheduler: Literal["none", "asha"] = "none"
    """Which trials end early; `asha` ends, at each rung, those not among the best so far."""
    grace_epochs: Annotated[int, Range(1, 10**5, "epochs")] = 1
    """Epochs before the first rung; each further rung is `reduction` times later."""
    reduction: Annotated[int, Range(2, 100)] = 2
    """Number of trials at a rung of which one continues."""
    objective: Literal["auto", "labels", "synthetic"] = "auto"
    """Images that trials are measured on; `auto`: labelled ones where a category has some, else
    synthetic defects."""
    metric: Literal["image_auroc", "aupro"] = "image_auroc"
    """Metric that the objective maximises."""
    max_images: Annotated[int, Range(8, 10**6, "images")] = 400
    """Most good images, and most defective ones, that a trial is measured on."""
    refit_best: Annotated[int, Range(1, 100)] = 5
    """Number of the best configs that are trained again, together with the config that the search
    began with."""
    refit_seeds: Annotated[int, Range(1, 100)] = 3
    """Seeds that each of these is trained with; the best mean wins."""
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    """Seed of the draws from the space."""

    def _check(self) -> None:
        if self.time_budget and not self.budget_s:
            raise ConfigError(
                f"search.time_budget is {self.time_budget!r}: no trial could start; leave it empty "
                "for no limit"
            )

    @property
    def budget_s(self) -> float:
        """Seconds of `time_budget`; infinite without one."""
        if not self.time_budget:
            return math.inf
        return durations.parse("search.time_budget", self.time_budget).total_seconds()


@dataclass(frozen=True)
class SearchConfig(TrainConfig):
    """SEARCH.toml: FLEET.toml and a table `[search]`."""

    search: SearchOptions = field(default_factory=SearchOptions)

    def trial(self, values: Mapping[str, Any], seed: int) -> TrainConfig:
        """The fleet with a trial's values, trained with a seed.

        Args:
            values: values of the space, by dotted key.
            seed: the trial's `train.seed`.

        Raises:
            ConfigError: a value is refused.
        """
        return self.base().with_values({**values, "train.seed": seed})
