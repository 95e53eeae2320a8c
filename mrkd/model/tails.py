"""Prediction limit of an exponential tail, from few values."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def tail_limit(rising: NDArray[np.float64], rate: float) -> float:
    """The limit that one more value exceeds with probability `rate`, if the tail is exponential.

    Of n values the m in the upper half exceed a level by x together. One more value passes the
    level with probability p = (m + 1) / (n + 1), and level + x ((p / rate)^(1 / m) - 1) with
    probability `rate`, whatever the tail's scale: the exact prediction limit. For m = 2 it lies
    far out; for large m it is the mean excess times log(p / rate).

    Args:
        rising: at least one value, sorted.
        rate: below the share of the upper half.
    """
    count = len(rising)
    above = min(count, max(2, math.ceil(count / 2)))
    level = rising[count - above - 1] if count > above else rising[0]
    excess = float((rising[count - above :] - level).sum())
    passing = (above + 1) / (count + 1)
    return float(level + excess * ((passing / rate) ** (1 / above) - 1))
