"""Samplers of a search: draw the configs of its trials from a space."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from mrkd.config.tune import SearchOptions
from mrkd.errors import ConfigError
from mrkd.training.search.space import Domain, Drawn, NumberRange, OneOf


class Sampler(Protocol):
    """Draws configs, which depend on the seed and on the results that it has by then alone.

    Attributes:
        learns: whether its draws depend on results.
    """

    learns: bool

    def ask(self, trial: str) -> dict[str, Any]:
        """The values of a trial, by key."""

    def tell(self, trial: str, objective: float) -> None:
        """Takes the objective of a trial; 0 of one that failed."""


def sampler_of(options: SearchOptions, space: Mapping[str, Domain]) -> Sampler:
    """The sampler that a config asks for.

    Raises:
        ConfigError: Optuna is not installed, or cannot draw from a domain.
    """
    return _Random(options, space) if options.searcher == "random" else _Tpe(options, space)


class _Random:
    """Draws each value by itself."""

    learns = False

    def __init__(self, options: SearchOptions, space: Mapping[str, Domain]) -> None:
        self._space, self._rng = space, np.random.default_rng(options.seed)

    def ask(self, trial: str) -> dict[str, Any]:
        return {key: domain.draw(self._rng) for key, domain in self._space.items()}

    def tell(self, trial: str, objective: float) -> None:
        pass  # its draws do not depend on results


class _Tpe:
    """Optuna's tree-structured Parzen estimator, which learns from earlier trials."""

    learns = True

    def __init__(self, options: SearchOptions, space: Mapping[str, Domain]) -> None:
        try:
            import optuna
        except ImportError as error:
            raise ConfigError(
                "search.searcher is tpe, which Optuna draws: pip install 'mrkd[tune]', or set "
                "random"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=options.seed)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        with warnings.catch_warnings():
            # Optuna warns of choices that are lists, which it keeps unchanged.
            warnings.simplefilter("ignore", UserWarning)
            self._space = {key: _distribution(key, domain) for key, domain in space.items()}
        self._trials: dict[str, Any] = {}

    def ask(self, trial: str) -> dict[str, Any]:
        self._trials[trial] = self._study.ask(self._space)
        return dict(self._trials[trial].params)

    def tell(self, trial: str, objective: float) -> None:
        self._study.tell(self._trials.pop(trial), objective)


def _distribution(key: str, domain: Domain) -> Any:
    """A domain as Optuna has it."""
    from optuna import distributions

    match domain:
        case OneOf(values):
            return distributions.CategoricalDistribution(list(values))
        case NumberRange(low, high, log, True, step):
            high = int(high) - (not step)
            return distributions.IntDistribution(int(low), high, log=log, step=int(step or 1))
        case NumberRange(low, high, log, False, step):
            step_or_none = step or None if not log else None  # Optuna does not know both
            return distributions.FloatDistribution(low, high, log=log, step=step_or_none)
        case Drawn():
            raise ConfigError(
                f"search.space: {key} is drawn by a function, which tpe does not know: set "
                "search.searcher to random, or use choice, uniform, loguniform or randint"
            )
