"""What a key of the space does to the objective, as far as the trials can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_MIN_PER_PART = 3
_MAX_PARTS = 5
# Standard errors of a difference that count as none: 95 % of a normal.
_ERRORS = 1.96


@dataclass(frozen=True)
class Part:
    """Trials whose value of a key lies near each other, or is the same.

    Args:
        label: of the value, or of the range.
        low: of a range, the least value; None for a choice.
        high: the largest.
        objectives: of the trials.
    """

    label: str
    low: float | None
    high: float | None
    objectives: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the objectives."""
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
    """What a key does.

    Args:
        key: dotted.
        parts: rising by value where they are ranges.
        words: one sentence.
    """

    key: str
    parts: tuple[Part, ...]
    words: str


def effects(values: Sequence[Mapping[str, Any]], objectives: Sequence[float]) -> list[Effect]:
    """The effect of each key, one mapping of values a finished trial; none without trials.

    Numbers are cut into up to five parts of equally many trials; two parts differ where their
    means lie further apart than 1.96 standard errors of the difference.
    """
    found = []
    for key in values[0] if values else ():
        column = [one[key] for one in values]
        numeric = all(isinstance(v, float) for v in column) and len(set(column)) > 1
        parts = (_ranges if numeric else _choices)(column, objectives)
        found.append(Effect(key, tuple(parts), _words(key, parts)))
    return found


def _ranges(column: Sequence[float], objectives: Sequence[float]) -> list[Part]:
    order = np.argsort(column, kind="stable")
    number = max(1, min(_MAX_PARTS, len(order) // _MIN_PER_PART))
    parts = []
    for rows in np.array_split(order, number):
        low, high = column[rows[0]], column[rows[-1]]
        label = f"{low:.2g} to {high:.2g}"
        parts.append(Part(label, low, high, tuple(objectives[n] for n in rows)))
    return parts


def _choices(column: Sequence[Any], objectives: Sequence[float]) -> list[Part]:
    labels = [_label(value) for value in column]
    return [
        Part(
            label,
            None,
            None,
            tuple(o for own, o in zip(labels, objectives, strict=True) if own == label),
        )
        for label in sorted(set(labels))
    ]


def _label(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "all"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _words(key: str, parts: Sequence[Part]) -> str:
    """One sentence, and no more than the trials can show."""
    if len(parts) < 2 or max(len(part.objectives) for part in parts) < _MIN_PER_PART:
        return f"{key}: too few trials to tell what it does"
    judged = [part for part in parts if len(part.objectives) > 1]
    if len(judged) < 2:
        return f"{key}: too few trials to tell what it does"
    best = max(judged, key=lambda part: part.mean)
    worse = [part for part in judged if _differ(best, part)]
    if not worse:
        over = _span(parts) if best.low is not None else " or ".join(p.label for p in parts)
        return f"{key}: {over} makes no difference that these data can show"
    alike = [part for part in judged if part not in worse]
    where = _span(alike) if best.low is not None else " or ".join(p.label for p in alike)
    tail = " serve alike" if len(alike) > 1 else " is best"
    costs = ", ".join(f"{part.label} costs {best.mean - part.mean:.3f}" for part in worse)
    return f"{key}: {where}{tail}; {costs}"


def _differ(best: Part, other: Part) -> bool:
    error = math.hypot(best.error, other.error)
    return best.mean - other.mean > _ERRORS * error


def _span(parts: Sequence[Part]) -> str:
    """Ranges in words; neighbours as one."""
    low, high = min(part.low or 0.0 for part in parts), max(part.high or 0.0 for part in parts)
    return f"between {low:.2g} and {high:.2g}"
