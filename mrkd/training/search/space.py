"""Domains of a search space: choices and ranges of the values of a key.

A space is a mapping of dotted keys to domains. The domains of `ray.tune` are taken as well, for
spaces that were written for Ray.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrkd.errors import ConfigError

_WHOLE = 2**63 - 1
_FAULTS = (ArithmeticError, AttributeError, LookupError, NameError, TypeError, ValueError)
"""What a function written for a space raises where it is wrong."""


@dataclass(frozen=True)
class OneOf:
    """One of some values, each as likely."""

    values: Sequence[Any]

    def __post_init__(self) -> None:
        if not len(self.values):
            raise ConfigError("a choice has no values: name one at least")
        try:
            repr(self.values)
        # A number of more than 4,300 digits, or lists in lists without end.
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"a choice has a value that cannot be written: {error}") from error

    def draw(self, rng: np.random.Generator) -> Any:
        """A value."""
        return self.values[int(rng.choice(len(self.values)))]

    def __str__(self) -> str:
        return " | ".join(map(str, self.values))


@dataclass(frozen=True)
class NumberRange:
    """A number between two bounds.

    Args:
        low: lower bound.
        high: upper bound; of whole numbers without a step, the first that is not drawn.
        log: whether numbers are drawn evenly by their logarithm.
        whole: whether numbers are whole.
        step: divisor of every number; 0: any number is allowed.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False
    step: float = 0.0

    def __post_init__(self) -> None:
        numbers = all(isinstance(bound, int | float) for bound in (self.low, self.high))
        if not numbers or not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ConfigError(f"the range {self.low!r} to {self.high!r} needs two finite numbers")
        if self.low >= self.high:
            raise ConfigError(
                f"the range {self.low!r} to {self.high!r} is empty: lower bound first"
            )
        if self.whole and not -_WHOLE <= self.low < self.high <= _WHOLE:
            raise ConfigError(
                f"the range {self.low!r} to {self.high!r} has whole numbers of more than 64 bits"
            )
        if self.log and self.low <= 0:
            raise ConfigError(
                f"the range {self.low!r} to {self.high!r} cannot be drawn by its logarithm: begin "
                "above 0"
            )

    def draw(self, rng: np.random.Generator) -> float | int:
        """A number; for the same generator the one that Ray Tune draws."""
        low, high, step = self.low, self.high, self.step
        if step and self.whole:
            low, high = math.ceil(low / step), math.floor(high / step) + (step != 1)
        elif step:
            low, high = (
                _inward(low / step, math.ceil) * step,
                _inward(high / step, math.floor) * step,
            )
        if self.log:
            value = float(np.exp(rng.uniform(np.log(low), np.log(high))))
            value = math.floor(value) if self.whole else value
        else:
            value = int(rng.integers(int(low), int(high))) if self.whole else rng.uniform(low, high)
        if step:
            value = value * step if self.whole else round(value / step) * step
        return int(value) if self.whole else float(value)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (", log" if self.log else "")


@dataclass(frozen=True)
class Drawn:
    """A value that a domain of `ray.tune` draws by a function."""

    domain: Any

    def draw(self, rng: np.random.Generator) -> Any:
        """A value.

        Raises:
            ConfigError: the function fails.
        """
        try:
            return self.domain.sample(random_state=rng)
        except _FAULTS as error:
            raise ConfigError(f"its function fails: {type(error).__name__}: {error}") from error

    def __str__(self) -> str:
        return "drawn by a function"


Domain = OneOf | NumberRange | Drawn


def choice(values: Sequence[Any]) -> OneOf:
    """One of some values."""
    return OneOf(list(values))


def uniform(low: float, high: float) -> NumberRange:
    """A number between two bounds."""
    return NumberRange(low, high)


def loguniform(low: float, high: float) -> NumberRange:
    """A number between two positive bounds, drawn evenly by its logarithm."""
    return NumberRange(low, high, log=True)


def randint(low: int, high: int) -> NumberRange:
    """A whole number from `low` to below `high`."""
    return NumberRange(low, high, whole=True)


def domain_of(value: Any) -> Domain | None:
    """A domain, also one of `ray.tune`; None for anything else."""
    if isinstance(value, Domain):
        return value
    of_tune = type(value).__module__.startswith("ray.tune.")
    if not of_tune or not hasattr(value, "get_sampler"):
        return None
    sampler = value.get_sampler()
    step = getattr(sampler, "q", 0.0)
    kind = type(getattr(sampler, "sampler", sampler)).__name__.strip("_")
    if hasattr(value, "categories") and kind == "Uniform":
        return OneOf(value.categories)
    if kind not in ("Uniform", "LogUniform") or not hasattr(value, "lower"):
        return Drawn(value)
    whole = type(value).__name__ == "Integer"
    return NumberRange(value.lower, value.upper, log=kind == "LogUniform", whole=whole, step=step)


def _inward(number: float, towards: Any) -> float:
    """A bound on the grid of whole numbers; one that is whole to rounding stays."""
    nearest = round(number)
    return nearest if math.isclose(number, nearest) else float(towards(number))
