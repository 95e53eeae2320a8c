"""Effect of each key of a search space on the objective, as far as the trials show it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_MIN_PER_PART = 3
_MAX_PARTS = 5
# Standard errors of a difference that count as none: 95 % of a normal.
_ERRORS = 1.96


@dataclass(frozen=True)
class Part:
    """Trials whose values of a key are equal or lie near each other.

    Args:
        label: text of the value, or of the range.
        low: least value of a range; None for a choice.
        high: largest value of a range; None for a choice.
        objectives: objectives of the trials.
    """

    label: str
    low: float | None
    high: float | None
    objectives: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the objectives."""
        return float(np.mean(self.objectives))

    @property
    def error(self) -> float:
        """Standard error of the mean; infinite for one trial."""
        number = len(self.objectives)
        if number < 2:
            return math.inf
        return float(np.std(self.objectives, ddof=1)) / math.sqrt(number)


@dataclass(frozen=True)
class Effect:
    """Effect of a key.

    Args:
        key: dotted key.
        parts: parts of the trials, rising by value where they are ranges.
        words: one sentence.
        is_log: whether its values were drawn on a log scale.
    """

    key: str
    parts: tuple[Part, ...]
    words: str
    is_log: bool = False


def effects(
    values: Sequence[Mapping[str, Any]],
    objectives: Sequence[float],
    log_keys: Collection[str] = (),
) -> list[Effect]:
    """The effect of each key; none without trials.

    Numbers are cut into up to five parts of equally many trials; two parts differ where their
    means lie further apart than 1.96 standard errors of the difference.

    Args:
        values: values by key of the space, one mapping a finished trial, all with the same keys.
        objectives: objectives of these trials.
        log_keys: keys that were drawn on a log scale.
    """
    found = []
    for key in values[0] if values else ():
        column = [one[key] for one in values]
        numeric = all(isinstance(v, float) for v in column) and len(set(column)) > 1
        parts = (_ranges if numeric else _choices)(column, objectives)
        found.append(Effect(key, tuple(parts), _words(key, parts), key in log_keys))
    return found


def _ranges(column: Sequence[float], objectives: Sequence[float]) -> list[Part]:
    order = np.argsort(column, kind="stable")
    number = max(1, min(_MAX_PARTS, len(order) // _MIN_PER_PART))
    parts = []
    for rows in np.array_split(order, number):
        low, high = column[rows[0]], column[rows[-1]]
        own = tuple(objectives[n] for n in rows)
        parts.append(Part(f"{low:.2g} to {high:.2g}", low, high, own))
    return parts


def _choices(column: Sequence[Any], objectives: Sequence[float]) -> list[Part]:
    by_label: dict[str, list[float]] = defaultdict(list)
    for value, objective in zip(column, objectives, strict=True):
        by_label[label(value)].append(objective)
    return [Part(name, None, None, tuple(own)) for name, own in sorted(by_label.items())]


def label(value: Any) -> str:
    """A choice in words."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "all"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _words(key: str, parts: Sequence[Part]) -> str:
    """One sentence, and no more than the trials can show."""
    judged = [part for part in parts if len(part.objectives) > 1]
    if len(judged) < 2 or max(len(part.objectives) for part in judged) < _MIN_PER_PART:
        return f"{key}: too few trials to tell what it does"
    best = max(judged, key=lambda part: part.mean)
    worse = [
        part
        for part in judged
        if best.mean - part.mean > _ERRORS * math.hypot(best.error, part.error)
    ]
    if not worse:
        return f"{key}: {_span(parts)} makes no difference that these data can show"
    alike = [part for part in judged if part not in worse]
    tail = " serve alike" if len(alike) > 1 else " is best"
    costs = ", ".join(f"{part.label} costs {best.mean - part.mean:.3f}" for part in worse)
    return f"{key}: {_span(alike)}{tail}; {costs}"


def _span(parts: Sequence[Part]) -> str:
    """Choices in words, or ranges; neighbours as one."""
    if parts[0].low is None:
        return " or ".join(part.label for part in parts)
    low, high = min(part.low or 0.0 for part in parts), max(part.high or 0.0 for part in parts)
    return f"between {low:.2g} and {high:.2g}"
