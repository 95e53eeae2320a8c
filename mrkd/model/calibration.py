"""Thresholds at a stated false-call rate, from good images that a model did not know.

The rule is split conformal prediction's: if a new good part's score is exchangeable with the n
calibrating ones, it lies above the ceil((n + 1)(1 - rate))-th smallest of them with probability at
most `rate`, whatever the scores' distribution. It needs (n + 1) * rate >= 1. With fewer images the
threshold is what a tail that falls exponentially makes of the upper half of the scores, and never
below the largest of them: that one alone would be passed with probability 1 / (n + 1).

Images come in groups, and tomorrow's are of new ones. K groups that are exchangeable with
tomorrow's vouch for no rate below 1 / (K + 1), which is stored and warned of.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrkd.data.images import STATISTICS, Statistics
from mrkd.errors import CategoryError
from mrkd.model.artefact import Calibration
from mrkd.model.good_ranges import ranges_of
from mrkd.model.tails import tail_limit

log = logging.getLogger(__name__)

# Sorted values kept of each calibrating quantity; a calibration stays below 2 MB.
MAX_STORED = 10_000


def calibrate(
    scores: ArrayLike,
    pixel_maxima: ArrayLike,
    statistics: Sequence[Statistics],
    *,
    false_call_rate: float,
    num_groups: int | None = None,
    number: int = 1,
    by: str = "train",
    why: str = "good images of the training, scored by what did not know them",
    note: str = "",
    looks: Sequence[Mapping[str, float]] = (),
) -> Calibration:
    """The calibration of a model from good images, scored by what did not know them.

    Of more than 10,000 images the evenly spaced ranks alone are used, for the thresholds and in
    storage, so that the stored calibration gives the same thresholds again.

    Args:
        scores: `[n]`, the images' scores, in any order.
        pixel_maxima: `[n]`, the maximum of each one's anomaly map inside the image and the
            region of interest (`Scored.peak`). Its quantile is the pixel threshold, so that a good
            part shows a region as rarely as it is called defective.
        statistics: brightness, contrast and sharpness of the same images, or of others like them.
        false_call_rate: share of good parts that may be called defective, in (0, 1).
        num_groups: number of groups that the images come in; None: each is one of its own.
        number: number of the calibration within its model version.
        by: who made it.
        why: purpose, one line.
        note: a further warning about its threshold, one line.
        looks: look of each good image (`good_ranges.look_of`, and the mean of its map), outside of
            whose ranges no image is OK; none: any may be.

    Raises:
        CategoryError: a score that is not finite.
        ValueError: `scores` and `pixel_maxima` differ in length, or something is empty.
    """
    num_scores, num_maxima = np.size(scores), np.size(pixel_maxima)
    if num_scores != num_maxima or not num_scores or not statistics:
        raise ValueError(
            f"{num_scores} scores, {num_maxima} maxima, {len(statistics)} statistics: one of each "
            "for an image, and at least one"
        )
    held_out, maxima = _sorted(scores, "image scores"), _sorted(pixel_maxima, "map maxima")
    calibration = Calibration(
        number=number,
        threshold=threshold_at(held_out, false_call_rate),
        pixel_threshold=threshold_at(maxima, false_call_rate),
        false_call_rate=false_call_rate,
        supported_false_call_rate=max(false_call_rate, 1 / ((num_groups or num_scores) + 1)),
        scores=tuple(held_out.tolist()),
        pixel_maxima=tuple(maxima.tolist()),
        statistics={
            name: tuple(_sorted([getattr(s, name) for s in statistics], name).tolist())
            for name in STATISTICS
        },
        num_groups=num_groups or num_scores,
        by=by,
        why=why,
        note=note,
        ranges=ranges_of(looks) if looks else {},
    )
    if calibration.warning:
        log.warning("calibration_support number=%d %s", number, calibration.warning)
    return calibration


def threshold_at(values: ArrayLike, false_call_rate: float) -> float:
    """The ceil((n + 1)(1 - rate))-th smallest of n values; above them all if n is too small.

    A part is anomalous strictly above it. It is a float32 value, so a float32 score compares with
    it as exactly after storage as before.

    Raises:
        ValueError: no value, or a rate outside (0, 1).
    """
    rising = np.sort(np.asarray(values, np.float64).reshape(-1))
    if not len(rising) or not 0 < false_call_rate < 1:
        raise ValueError(f"{len(rising)} calibrating values at rate {false_call_rate}")
    # The rate as written, in exact arithmetic: in floats 100 * 0.29 is below 29, one rank off.
    allowed = int((len(rising) + 1) * Fraction(repr(float(false_call_rate))))
    if allowed:
        return float(rising[-allowed])
    return max(float(rising[-1]), float(np.float32(tail_limit(rising, false_call_rate))))


def at_rate(calibration: Calibration, false_call_rate: float) -> Calibration:
    """The calibration with its thresholds at another false-call rate, by the same images.

    Raises:
        ValueError: a rate outside (0, 1).
    """
    held_out, maxima = np.array(calibration.scores), np.array(calibration.pixel_maxima)
    return replace(
        calibration,
        threshold=threshold_at(held_out, false_call_rate),
        pixel_threshold=threshold_at(maxima, false_call_rate),
        false_call_rate=false_call_rate,
        supported_false_call_rate=max(false_call_rate, 1 / (calibration.num_groups + 1)),
    )


def asked_rate(calibration: Calibration, default: float) -> float:
    """The false-call rate that a calibration was made for.

    Args:
        calibration: calibration of a model.
        default: result where a person set the threshold: its rate then was found, not asked for.
    """
    rate = calibration.false_call_rate
    made = 0 < rate < 1 and threshold_at(calibration.scores, rate) == calibration.threshold
    return rate if made else default


def at_threshold(calibration: Calibration, threshold: float) -> Calibration:
    """The calibration with a threshold that a person sets; regions are drawn as before.

    Both its rates become (1 + #{held-out > threshold}) / (n + 1): the estimate of the held-out
    images, never 0, however high the threshold lies.

    Args:
        calibration: calibration of a model.
        threshold: image score, rounded to float32 as rows hold it, so that comparing the rows'
            scores with their threshold gives the same verdicts.
    """
    threshold = float(np.float32(threshold))
    held_out = np.array(calibration.scores)
    above = len(held_out) - int(np.searchsorted(held_out, threshold, side="right"))
    rate = (1 + above) / (len(held_out) + 1)
    return replace(
        calibration,
        threshold=threshold,
        false_call_rate=rate,
        supported_false_call_rate=max(rate, 1 / (calibration.num_groups + 1)),
    )


def _sorted(values: ArrayLike, what: str) -> NDArray[np.float64]:
    """Float32 values in rising order, thinned to `MAX_STORED`, widened without change."""
    array = np.sort(np.asarray(values, dtype=np.float32).reshape(-1))
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise CategoryError(
            f"{bad} of {len(array)} held-out {what} are not finite: the training diverged; "
            "lower train.learning_rate"
        )
    if len(array) > MAX_STORED:
        array = array[np.linspace(0, len(array) - 1, MAX_STORED).round().astype(np.int64)]
    return array.astype(np.float64)
