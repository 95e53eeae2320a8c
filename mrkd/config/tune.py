"""SEARCH.toml: which config serves best, a fleet's config and what varies of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mrkd.config.toml import Config, check_range
from mrkd.config.train import TrainConfig


@dataclass(frozen=True)
class SearchOptions(Config):
    """What is tried, and what it is judged by."""

    space: str = "quick"
    """A module of `tune_spaces`, or a Python file of your own with such a `SPACE`."""
    scope: Literal["category", "joint"] = "category"
    """A search for each category, or one for all: the best mean rank over the categories wins."""
    trials: int = 24
    """Configs that each search tries."""
    trials_at_once: int = 0
    """At most; 0: as many as the cluster has room for."""
    searcher: Literal["random", "tpe"] = "random"
    """`tpe` learns from the trials before (Optuna, an extra)."""
    scheduler: Literal["none", "asha"] = "none"
    """`asha` ends, at each rung, the trials that are not among the best so far."""
    grace_epochs: int = 1
    """Epochs before the first rung; the next lies `reduction` times later, and so on."""
    reduction: int = 2
    """Of so many trials at a rung one goes on."""
    objective: Literal["auto", "labels", "synthetic"] = "auto"
    """`auto`: labelled images where a category has some, else made defects."""
    metric: Literal["image_auroc", "aupro"] = "image_auroc"
    max_images: int = 400
    """Good and defective images, each, that a trial is measured by at most."""
    refit_best: int = 5
    """Of the best configs so many are trained again, and the one that the search began with."""
    refit_seeds: int = 3
    """Seeds that each of these is trained with anew; the best mean wins."""
    seed: int = 0
    """Of what is drawn from the space."""

    def __post_init__(self) -> None:
        check_range("search.trials", self.trials, 1, 10**5)
        check_range("search.trials_at_once", self.trials_at_once, 0, 10**4)
        check_range("search.grace_epochs", self.grace_epochs, 1, 10**5)
        check_range("search.reduction", self.reduction, 2, 100)
        check_range("search.max_images", self.max_images, 8, 10**6)
        check_range("search.refit_best", self.refit_best, 1, 100)
        check_range("search.refit_seeds", self.refit_seeds, 1, 100)
        check_range("search.seed", self.seed, 0, 2**31 - 1)


@dataclass(frozen=True)
class SearchConfig(TrainConfig):
    """SEARCH.toml: FLEET.toml and a table `[search]`."""

    search: SearchOptions = field(default_factory=SearchOptions)

    def trial(self, values: Mapping[str, Any], seed: int) -> TrainConfig:
        """The fleet with a trial's values, trained with a seed.

        Args:
            values: of the space, by dotted key.
            seed: takes the place of `train.seed`.

        Raises:
            ConfigError: a value is refused.
        """
        return self.base().with_values({**values, "train.seed": seed})
