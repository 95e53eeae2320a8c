"""Distances of two distributions, and the distances that nights have among themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import mul

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Images that hardly differ among themselves: 2 % of their median counts as one spread.
_LEAST_SPREAD = 0.02
# A quantile between two kinds of parts, black and white ones, leaps with a small share of them.
_MOST_SPREADS = 4.0
_INNER = slice(1, -1)
"""Quantiles but for the least and the greatest value, which one odd image decides."""


def distance(now: NDArray[np.float32], usual: NDArray[np.float32]) -> float:
    """Mean distance of the inner quantiles in spreads of `usual`; below 0 where they fell.

    Args:
        now: quantiles, float32 `[21]`.
        usual: quantiles of the reference, float32 `[21]`.
    """
    lower, median, upper = (float(usual[place]) for place in (5, 10, 15))
    spread = max((upper - lower) / 1.349, _LEAST_SPREAD * abs(median), 1e-9)
    moved = (now.astype(np.float64) - usual)[_INNER] / spread
    moved = np.clip(moved, -_MOST_SPREADS, _MOST_SPREADS)
    return float(np.copysign(np.abs(moved).mean(), moved.mean()))


def robust_spread(values: ArrayLike) -> float:
    """The standard deviation that normally distributed values with this median deviation have.

    A few odd ones do not widen it.
    """
    found = np.asarray(values, np.float64)
    return 1.4826 * float(np.median(np.abs(found - np.median(found))))


def usual_change(distances: Sequence[float]) -> float:
    """What nights differ among themselves: the median, and three robust deviations.

    Of n nights times 1 + 3 / n: they made the reference, and one more differs more from it.
    """
    sizes = np.abs(distances)
    change = float(np.median(sizes)) + 3 * robust_spread(sizes)
    return change * (1 + 3 / len(sizes))


def other_sizes(now: Mapping[str, int], usual: Mapping[str, int]) -> float:
    """Kolmogorov's distance of the pixels and of the shapes, the larger one.

    Both arguments are numbers of images by size, "HxW".
    """
    pixels, shapes = (_kolmogorov(now, usual, measure) for measure in (mul, lambda h, w: w / h))
    return max(pixels, shapes)


def _kolmogorov(
    now: Mapping[str, int], usual: Mapping[str, int], measure: Callable[[float, float], float]
) -> float:
    steps: dict[float, float] = {}
    for sizes, sign in ((now, 1), (usual, -1)):
        total = sum(sizes.values())
        for size, number in sizes.items():
            value = measure(*map(float, size.split("x")))
            steps[value] = steps.get(value, 0.0) + sign * number / total
    differences = np.cumsum([steps[value] for value in sorted(steps)])
    return float(np.abs(differences).max())
