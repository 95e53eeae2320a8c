"""Figures with intervals, and the resamples of images that intervals come from.

A resample is a row of weights, how often each image was drawn: all of them go through one curve
at once. Legend: N images, R resamples, K vertices of a curve.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrkd import seeds

Floats = NDArray[np.float64]
Weights = NDArray[np.uint16]

# Values that differ by less are equal.
_SAME = 1e-12
# Resamples that are drawn at one time.
_BLOCK = 64
# Beyond, the correction would turn around.
_MAX_ACCELERATION = 0.15


@dataclass(frozen=True)
class Metric:
    """A figure, its 95 % interval where one was asked for, or the reason why there is none.

    Attributes:
        draws: float64 `[R]`, the figure over the resamples behind its interval, NaN where one lacks
            a class; empty without. Figures on the same images and seed have the same resamples,
            so that means and differences of figures are those of their draws.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None
    draws: Floats = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)

    @property
    def columns(self) -> dict[str, Any]:
        """Its values in a row of `schema.METRICS`, without the draws."""
        return {name: getattr(self, name) for name in ("value", "low", "high", "reason")}

    @classmethod
    def of(cls, value: float, distribution: ArrayLike = (), *, level: float = 0.95) -> Self:
        """The value with its confidence interval at `level`.

        Quantiles of the resampled values, corrected for their bias and their skewness: near 1,
        where an AUROC cannot rise but can fall, the plain ones hold the truth too seldom.
        Resamples that lack one class, where the metric is NaN, are left out.

        Args:
            value: the metric of the data themselves.
            distribution: the metric over resamples.
            level: share of all data sets whose interval would hold the true value.

        Source: Efron 1987, BCa; the acceleration is a sixth of the resampled values' skewness, as
        it is for a mean, which AUROC and AUPRO nearly are.
        """
        draws = np.asarray(distribution, np.float64)
        resampled = draws[~np.isnan(draws)]
        if not resampled.size:
            return cls(float(value))
        low, high = np.quantile(resampled, _levels(float(value), resampled, level))
        return cls(float(value), float(low), float(high), draws=draws)


def _levels(value: float, resampled: Floats, level: float) -> list[float]:
    """Which quantiles of the resampled values bound the interval."""
    normal, most = NormalDist(), 1 - 1 / (len(resampled) + 1)
    lower = np.mean(resampled < value - _SAME) + np.mean(abs(resampled - value) <= _SAME) / 2
    bias = normal.inv_cdf(min(max(float(lower), 1 - most), most))
    away = resampled - resampled.mean()
    spread = float(np.sqrt(np.mean(away**2)))
    skewness = float(np.mean(away**3)) / spread**3 if spread > _SAME else 0.0
    acceleration = min(max(skewness / 6, -_MAX_ACCELERATION), _MAX_ACCELERATION)
    found = []
    for share_below in ((1 - level) / 2, (1 + level) / 2):
        moved = bias + normal.inv_cdf(share_below)
        found.append(normal.cdf(bias + moved / (1 - acceleration * moved)))
    return found


def resample_weights(
    strata: Sequence[Hashable],
    groups: Sequence[Hashable] | None = None,
    *,
    resamples: int,
    seed: int = 0,
) -> Weights:
    """The number of times that each image is in each resample: uint16 `[R, N]`.

    Groups are drawn with replacement among those that hold the same set of strata, so that every
    stratum is in every resample. A group that is the only one of its set is in all of them, so
    that fine strata over few groups make intervals too narrow.

    Args:
        strata: `[N]`, a label or a kind of defect.
        groups: `[N]`; None, as a whole or for an image: the image is a group of its own.
        resamples: R.
        seed: seed of the draws; equal seeds, strata and groups give equal resamples.
    """
    keys = (
        [("image", n) for n in range(len(strata))]
        if groups is None
        else [("image", n) if group is None else ("group", group) for n, group in enumerate(groups)]
    )
    numbers: dict[Hashable, int] = {}
    group_of_N = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
    held: dict[int, set[Hashable]] = defaultdict(set)
    for number, stratum in zip(group_of_N.tolist(), strata, strict=True):
        held[number].add(stratum)
    alike: dict[frozenset[Hashable], list[int]] = defaultdict(list)
    for number in range(len(numbers)):
        alike[frozenset(held[number])].append(number)
    rng = seeds.stream(seed, "bootstrap")
    counts = np.zeros((resamples, len(numbers)), np.uint16)
    for members in alike.values():
        # By blocks of resamples, so that the draws take no more memory than the weights do; rows
        # are drawn in order, whatever the block.
        for start in range(0, resamples, _BLOCK):
            block = counts[start : start + _BLOCK]
            draws = rng.integers(len(members), size=(len(block), len(members)))
            rows = np.arange(len(block))[:, None] * len(members)
            flat = np.bincount((rows + draws).ravel(), minlength=draws.size)
            block[:, members] = flat.reshape(draws.shape)
    if len(numbers) == len(strata):  # every image by itself, in order
        return counts
    return counts[:, group_of_N]


def share(running: Floats) -> Floats:
    """Running totals `[..., K]` as shares of the last one; NaN where that is 0."""
    total = running[..., -1:]
    return np.divide(running, total, out=np.full_like(running, np.nan), where=total > 0)


def area(fpr: Floats, found: Floats, limit: float) -> Floats:
    """Area under rising curves up to `limit`, divided by `limit`: float64 `[...]`.

    Args:
        fpr: `[..., K]`, share of the good that is called, from 0 to 1.
        found: `[..., K]`, share of the anomalous that is found.
        limit: in (0, 1]; the curve is cut there, between vertices by a straight line.
    """
    run = np.diff(fpr)
    kept = np.diff(np.minimum(fpr, limit))
    part = np.divide(kept, run, out=np.zeros_like(run), where=run > 0)
    height = found[..., :-1] + np.diff(found) * part / 2
    return np.asarray((kept * height).sum(-1) / limit)
