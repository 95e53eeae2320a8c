"""Operating points: the escapes and false calls of each choice of a threshold.

A part is called where its score lies strictly above the threshold, as in a night.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrkd import seeds
from mrkd.evaluation.metrics.bootstrap import Floats
from mrkd.evaluation.metrics.image import image_distribution, one_class

PARTS = 10_000
"""Number of parts in which escapes and false calls are counted."""

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
    """False calls and escapes of a threshold.

    Args:
        rule: rule by which the threshold was chosen.
        threshold: threshold of the image score.
        false_calls: share of the good parts that are called.
        escapes: share of the defective parts that are not.
        false_calls_in_10000: good parts called, of 10,000 parts of the line.
        escapes_in_10000: defective parts not called, of 10,000 parts of the line.
        cost: cost of a part, in the unit of the given costs; None where none were given.
    """

    rule: str
    threshold: float
    false_calls: Rate
    escapes: Rate
    false_calls_in_10000: Rate
    escapes_in_10000: Rate
    cost: float | None = None


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
    """The model's own threshold and other usual ones; empty where one class is missing.

    All but the model's own are chosen on these very images, so that new ones will do a little
    worse; each lies halfway between two scores.

    Args:
        scores: `[N]`, higher is more anomalous.
        labels: `[N]`, 0 good, 1 anomalous.
        groups: `[N]`, images of one part: intervals count parts, not images.
        threshold: the model's own.
        defect_rate: share of defective parts of the line, in (0, 1).
        cost_escape: cost of a defective part that is not called; both costs 0: unknown.
        cost_false_call: cost of a good part that is called.
    """
    scores_N, labels_N = np.asarray(scores, np.float64), np.asarray(labels, np.int64)
    if one_class(labels_N):
        return []
    keys: Sequence[Hashable] = list(groups) if groups is not None else [None] * len(scores_N)
    parts = tuple(_num_parts(keys, labels_N == label) for label in (0, 1))
    shares = _Shares(scores_N, labels_N, np.ones(len(scores_N)))
    costs = (defect_rate * cost_escape, (1 - defect_rate) * cost_false_call)

    def point(rule: str, at: float) -> OperatingPoint:
        escapes, false_calls = (float(share) for share in shares.at(at))
        called, missed = wilson(false_calls, parts[0]), wilson(escapes, parts[1])
        return OperatingPoint(
            rule,
            at,
            called,
            missed,
            _times(called, PARTS * (1 - defect_rate)),
            _times(missed, PARTS * defect_rate),
            shares.cost(at, costs),
        )

    return [point(*rule) for rule in shares.rules(threshold, costs)]


def reviewed_points(
    scores: ArrayLike,
    labels: ArrayLike,
    called: ArrayLike,
    num_images: tuple[int, int],
    *,
    threshold: float,
    cost_escape: float = 0.0,
    cost_false_call: float = 0.0,
) -> list[OperatingPoint]:
    """`operating_points` of a line whose images were reviewed at different rates by call.

    Each image is weighted by the number of images of its call over the number of reviewed ones
    (Horvitz and Thompson 1952). Intervals join those of the calls, each after Wilson 1927, by MOVER
    (Zou and Donner 2008); the interval of a share of the defective parts takes the number of those
    that are called as known.

    Args:
        scores: `[N]`, scores of the reviewed images.
        labels: `[N]`, labels of the reviewers: 0 good, 1 anomalous.
        called: `[N]`, whether the model called each defective.
        num_images: number that it called good, and defective, in all; if any, some were reviewed.
        threshold: the model's own.
        cost_escape: cost of a defective part that is not called; both costs 0: unknown.
        cost_false_call: cost of a good part that is called.
    """
    scores_N, labels_N = np.asarray(scores, np.float64), np.asarray(labels, np.int64)
    if one_class(labels_N):
        return []
    calls_N, sizes = np.asarray(called, np.int64), np.asarray(num_images, np.float64)
    num_seen = np.bincount(calls_N, minlength=2)
    of_line = sizes / sizes.sum()
    weights_N = (of_line / np.maximum(num_seen, 1))[calls_N]
    shares = _Shares(scores_N, labels_N, weights_N)
    good, bad = (float(weights_N[labels_N == label].sum()) for label in (0, 1))
    costs = (bad * cost_escape, good * cost_false_call)

    def of_all(chosen: NDArray[np.bool_], possible: tuple[bool, bool]) -> Rate:
        """Share of the line's images, with its interval; calls that can have none are left out."""
        found = np.bincount(calls_N[chosen], minlength=2)
        rates = [
            _times(wilson(k / n, n), size)
            for k, n, size, may in zip(found, num_seen, of_line, possible, strict=True)
            if n and (k or may)
        ]
        value = float(sum(rate.value for rate in rates))
        low = value - np.sqrt(sum((rate.value - rate.low) ** 2 for rate in rates))
        high = value + np.sqrt(sum((rate.high - rate.value) ** 2 for rate in rates))
        return Rate(value, max(0.0, float(low)), min(1.0, float(high)))

    def point(rule: str, at: float) -> OperatingPoint:
        # Images that were called good lie up to the model's own threshold, the rest above it.
        escapes = of_all((labels_N == 1) & (scores_N <= at), (True, at > threshold))
        false_calls = of_all((labels_N == 0) & (scores_N > at), (at < threshold, True))
        return OperatingPoint(
            rule,
            at,
            _share(false_calls, good - false_calls.value),
            _share(escapes, bad - escapes.value),
            _times(false_calls, PARTS),
            _times(escapes, PARTS),
            shares.cost(at, costs),
        )

    return [point(*rule) for rule in shares.rules(threshold, costs)]


def rare_defects(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    defect_rate: float = 0.02,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Rate]:
    """Figures on test sets as a line would fill them: mean and 95 % range over draws.

    A draw holds all good images and as many defective ones, drawn with replacement, as make the
    defect rate, at least one.

    Args:
        scores: `[N]`, higher is more anomalous.
        labels: `[N]`, 0 good, 1 anomalous.
        defect_rate: share of defective parts of the line, in (0, 1).
        resamples: number of draws.
        seed: seed of the draws.

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
        metric: Rate(float(values.mean()), *np.quantile(values, (0.025, 0.975)).tolist())
        for metric in _RARE_METRICS
        for values in [image_distribution(metric, scores_N[None], labels_N, weights_RN)]
    }


def _num_parts(groups: Sequence[Hashable], chosen: NDArray[np.bool_]) -> int:
    own = [group for group, one in zip(groups, chosen, strict=True) if one]
    return len({group for group in own if group is not None}) + own.count(None)


class _Shares:
    """Shares of the weight (above 0) of good and of defective images, as a threshold parts them."""

    def __init__(self, scores_N: Floats, labels_N: NDArray[np.int64], weights_N: Floats) -> None:
        order = np.argsort(scores_N, kind="stable")
        labels, weights = labels_N[order], weights_N[order]
        self._scores = scores_N[order]
        # Summed from either end, so that an empty sum is exactly 0, not a rounding error.
        self._escapes = _cumulated(weights * (labels == 1))
        self._found = _cumulated(weights[::-1] * (labels[::-1] == 1))[::-1]
        self._false_calls = _cumulated(weights[::-1] * (labels[::-1] == 0))[::-1]

    def at(self, thresholds: ArrayLike) -> tuple[Floats, Floats]:
        """Shares of the defective up to each threshold, and of the good strictly above it."""
        index = np.searchsorted(self._scores, thresholds, "right")
        return self._escapes[index], self._false_calls[index]

    def cost(self, at: float, costs: tuple[float, float]) -> float | None:
        """Cost of a part, by the costs of missing all and of calling all; None: unknown."""
        return float(self._costs(at, costs)) if any(costs) else None

    def rules(self, own: float, costs: tuple[float, float]) -> list[tuple[str, float]]:
        """The usual thresholds, each with its rule; the model's own first."""
        distinct = np.unique(self._scores)
        between = (distinct[:-1] + distinct[1:]) / 2
        thresholds = np.concatenate([[np.nextafter(distinct[0], -np.inf)], between, distinct[-1:]])
        _, called = self.at(thresholds)
        found = self._found[np.searchsorted(self._scores, thresholds, "right")]
        rules = [("the model's own", own)]
        for rate in _FALSE_CALL_RATES:
            lowest = thresholds[np.argmax(called <= rate + 1e-12)]
            rules.append((f"at most {100 * rate:g} % false calls", lowest))
        for recall in _RECALLS:
            highest = thresholds[np.flatnonzero(found >= recall - 1e-12)[-1]]
            rules.append((f"{100 * recall:g} % of the defective found", highest))
        if any(costs):
            rules.append(("lowest cost", thresholds[np.argmin(self._costs(thresholds, costs))]))
        return [(rule, float(at)) for rule, at in rules]

    def _costs(self, thresholds: ArrayLike, costs: tuple[float, float]) -> Floats:
        escapes, false_calls = self.at(thresholds)
        return np.asarray(costs[0] * escapes + costs[1] * false_calls)


def _cumulated(weights: Floats) -> Floats:
    """Shares of the sum: of none, of the first, of the first two, ..."""
    summed = np.cumsum(weights)
    return np.asarray(np.append(0.0, summed) / summed[-1])


def _share(rate: Rate, rest: float) -> Rate:
    """The rate as a share of itself and a rest that is taken as known."""
    values = (rate.value, rate.low, rate.high)
    return Rate(*(value / (value + rest) if value + rest > 0 else 0.0 for value in values))


def wilson(share: float, count: float) -> Rate:
    """The interval of a share seen on so many parts."""
    z = NormalDist().inv_cdf(0.975)
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + (z / count) ** 2 / 4)
    return Rate(share, max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def _times(rate: Rate, factor: float) -> Rate:
    return Rate(rate.value * factor, rate.low * factor, rate.high * factor)
