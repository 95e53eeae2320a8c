"""Where to put the threshold: what each choice lets escape and what it calls for nothing.

A part is called where its score lies strictly above the threshold, as in a night.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrkd import seeds
from mrkd.metrics.bootstrap import Floats
from mrkd.metrics.image import image_distribution, one_class

PARTS = 10_000
"""What escapes and false calls are counted in."""

_FALSE_CALL_RATES = (0.001, 0.01, 0.05)
_RECALLS = (0.95, 1.0)
_RARE_METRICS = ("image_auroc", "average_precision", "f1_max")


@dataclass(frozen=True)
class Rate:
    """A share seen on test images, with its 95 % interval after Wilson 1927."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold does.

    Args:
        rule: why this one.
        threshold: of the image score.
        false_calls: share of the good parts that are called.
        escapes: share of the defective parts that are not.
        defect_rate: share of a line's parts that are defective.
        cost: of a part, in the unit that costs were given in; None where they were not.
    """

    rule: str
    threshold: float
    false_calls: Rate
    escapes: Rate
    defect_rate: float
    cost: float | None = None

    @property
    def false_calls_in_10000(self) -> Rate:
        """Good parts called, of 10,000 parts of the line."""
        return _times(self.false_calls, PARTS * (1 - self.defect_rate))

    @property
    def escapes_in_10000(self) -> Rate:
        """Defective parts not called, of 10,000 parts of the line."""
        return _times(self.escapes, PARTS * self.defect_rate)


def operating_points(
    scores: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    *,
    threshold: float,
    defect_rate: float = 0.02,
    cost_escape: float = 0.0,
    cost_false_call: float = 0.0,
) -> list[OperatingPoint]:
    """The model's own threshold and others that people ask for; empty where one class is missing.

    All but the model's own are chosen on these very images, so that new ones will do a little
    worse; each lies halfway between two scores.

    Args:
        scores: `[N]`, higher is more anomalous.
        labels: `[N]`, 0 good, 1 anomalous.
        groups: `[N]`, pictures of one part: intervals count parts, not pictures.
        threshold: the model's own.
        defect_rate: of the line, in (0, 1).
        cost_escape: of a defective part that is not called; 0 with the other: unknown.
        cost_false_call: of a good part that is called.
    """
    scores_N, labels_N = np.asarray(scores, np.float64), np.asarray(labels, np.int64)
    if one_class(labels_N):
        return []
    keys: Sequence[Hashable] = list(groups) if groups is not None else [None] * len(scores_N)
    good, bad = (np.sort(scores_N[labels_N == label]) for label in (0, 1))
    parts = tuple(_num_parts(keys, labels_N == label) for label in (0, 1))
    distinct = np.unique(scores_N)
    between = (distinct[:-1] + distinct[1:]) / 2
    thresholds = np.concatenate([[np.nextafter(distinct[0], -np.inf)], between, distinct[-1:]])
    called = 1 - np.searchsorted(good, thresholds, "right") / len(good)
    found = 1 - np.searchsorted(bad, thresholds, "right") / len(bad)

    def point(rule: str, at: float) -> OperatingPoint:
        false_calls = _wilson(float(np.mean(good > at)), parts[0])
        escapes = _wilson(float(np.mean(bad <= at)), parts[1])
        cost = None
        if cost_escape or cost_false_call:
            cost = (1 - defect_rate) * false_calls.value * cost_false_call
            cost += defect_rate * escapes.value * cost_escape
        return OperatingPoint(rule, float(at), false_calls, escapes, defect_rate, cost)

    points = [point("the model's own", threshold)]
    for rate in _FALSE_CALL_RATES:
        lowest = thresholds[np.argmax(called <= rate + 1e-12)]
        points.append(point(f"at most {100 * rate:g} % false calls", lowest))
    for recall in _RECALLS:
        highest = thresholds[np.flatnonzero(found >= recall - 1e-12)[-1]]
        points.append(point(f"{100 * recall:g} % of the defective found", highest))
    if cost_escape or cost_false_call:
        costs = (1 - defect_rate) * called * cost_false_call
        costs += defect_rate * (1 - found) * cost_escape
        points.append(point("lowest cost", thresholds[np.argmin(costs)]))
    return points


def rare_defects(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    defect_rate: float = 0.02,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Rate]:
    """Figures on test sets as a line would fill them: mean and 95 % range over draws.

    A draw holds all good images and as many defective ones, drawn anew, as make the defect rate;
    one at least.

    Args:
        scores: `[N]`, higher is more anomalous.
        labels: `[N]`, 0 good, 1 anomalous.
        defect_rate: of the line, in (0, 1).
        resamples: draws.
        seed: of them.

    Returns:
        `image_auroc`, `average_precision` and `f1_max`; empty where one class is missing.
    """
    scores_N, labels_N = np.asarray(scores, np.float64), np.asarray(labels, np.int64)
    if one_class(labels_N) or not resamples:
        return {}
    bad = np.flatnonzero(labels_N == 1)
    num_good = len(labels_N) - len(bad)
    num_drawn = max(1, round(num_good * defect_rate / (1 - defect_rate)))
    drawn = seeds.stream(seed, "rare").integers(len(bad), size=(resamples, num_drawn))
    weights_RN = np.tile((labels_N == 0).astype(np.uint16), (resamples, 1))
    for row, chosen in zip(weights_RN, drawn, strict=True):
        np.add.at(row, bad[chosen], np.uint16(1))
    return {
        metric: _range(image_distribution(metric, scores_N[None], labels_N, weights_RN))
        for metric in _RARE_METRICS
    }


def _range(values: Floats) -> Rate:
    low, high = np.quantile(values, (0.025, 0.975))
    return Rate(float(values.mean()), float(low), float(high))


def _num_parts(groups: Sequence[Hashable], chosen: NDArray[np.bool_]) -> int:
    own = [group for group, one in zip(groups, chosen, strict=True) if one]
    return len({group for group in own if group is not None}) + own.count(None)


def _wilson(share: float, count: int) -> Rate:
    """The interval of a share seen on so many parts."""
    z = NormalDist().inv_cdf(0.975)
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + (z / count) ** 2 / 4)
    return Rate(share, max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def _times(rate: Rate, factor: float) -> Rate:
    return Rate(rate.value * factor, rate.low * factor, rate.high * factor)
