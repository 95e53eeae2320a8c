"""Means and paired differences of runs' figures, by their draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrkd.evaluation.metrics import Metric

SAME = "no difference that these data can show"


def mean(figures: Sequence[Metric]) -> Metric:
    """The mean over seeds, or over categories, with the interval of the mean over images.

    Figures over seeds have common resamples, figures over categories have not.
    """
    for one in figures:
        if one.value is None:
            return Metric(None, reason=one.reason)
    if not figures:
        return Metric(None, reason="no run has ended")
    draws = [one.draws for one in figures]
    paired = len({some.size for some in draws}) == 1
    value = float(np.mean([one.value for one in figures]))
    return Metric.of(value, np.mean(draws, axis=0) if paired else ())


def difference(ones: Sequence[Metric], others: Sequence[Metric]) -> Metric:
    """How much higher the mean of the ones is, on the same images."""
    one, other = mean(ones), mean(others)
    if one.value is None or other.value is None:
        return Metric(None, reason=one.reason or other.reason)
    if one.draws.shape != other.draws.shape:
        return Metric(one.value - other.value)
    return Metric.of(one.value - other.value, one.draws - other.draws)


def words(found: Metric, by_seed: Sequence[float]) -> str:
    """A difference in words.

    Args:
        found: the difference, with its interval over images.
        by_seed: the difference of each seed by itself.

    Returns:
        `higher` or `lower` where the interval leaves 0 out and every seed agrees, else `SAME`;
        empty where the difference has no value or interval.
    """
    if found.value is None or found.low is None or found.high is None:
        return ""
    agree = len({np.sign(one) for one in by_seed}) == 1
    if agree and found.low > 0:
        return "higher"
    if agree and found.high < 0:
        return "lower"
    return SAME
