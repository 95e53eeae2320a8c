"""From held-out good images to thresholds at a stated false-call rate.

The rule is split conformal prediction's: if a new good part's score is exchangeable with the n
held-out ones, it lies above the ceil((n + 1)(1 - rate))-th smallest of them with probability at
most `rate`, whatever the scores' distribution. It needs (n + 1) * rate >= 1; with fewer images the
largest score stands in, and the rate that it does support, 1 / (n + 1), is stored and warned of.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrkd.checkpoint import Calibration
from mrkd.errors import CategoryError
from mrkd.images import Statistics

log = logging.getLogger(__name__)

MIN_TRAINING_IMAGES = 8
MIN_HELD_OUT_IMAGES = 4
# Sorted values kept of each held-out quantity; a calibration stays below 2 MB.
MAX_STORED = 10_000


def check_counts(num_training: int, num_held_out: int, also: str = "") -> None:
    """Whether a category has images enough.

    Raises:
        CategoryError: under 8 training or 4 held-out images; both counts, and what else to say.
    """
    if num_training >= MIN_TRAINING_IMAGES and num_held_out >= MIN_HELD_OUT_IMAGES:
        return
    raise CategoryError(
        f"{num_training} training and {num_held_out} held-out good images, at least "
        f"{MIN_TRAINING_IMAGES} and {MIN_HELD_OUT_IMAGES} are needed: add good images"
        + ("" if num_held_out >= MIN_HELD_OUT_IMAGES else " or raise train.calibration_share")
        + also
    )


def calibrate(
    scores: ArrayLike,
    pixel_maxima: ArrayLike,
    statistics: Sequence[Statistics],
    *,
    false_call_rate: float,
    number: int = 1,
    by: str = "train",
    why: str = "held-out good images of the training",
) -> Calibration:
    """The calibration of a model from good images that it was not trained on.

    Above 10,000 images the evenly spaced ranks stand for all, in the thresholds as in what is
    stored, so that whoever reads the calibration later finds the same thresholds again.

    Args:
        scores: `[n]`, the held-out images' image scores, in any order.
        pixel_maxima: `[n]`, the maximum of each one's anomaly map inside the picture and the
            region of interest (`Scored.peak`). Its quantile is the pixel threshold, so that a good
            part shows a region as rarely as it is called defective.
        statistics: brightness, contrast and sharpness of the same images.
        false_call_rate: share of good parts that may be called defective, in (0, 1).
        number: of the calibration within its model version.
        by: who made it.
        why: what for, one line.

    Raises:
        CategoryError: fewer than 4 images, or a score that is not finite.
        ValueError: `scores`, `pixel_maxima` and `statistics` differ in length.
    """
    num_scores, num_maxima = np.size(scores), np.size(pixel_maxima)
    if not num_scores == num_maxima == len(statistics):
        raise ValueError(
            f"{num_scores} scores, {num_maxima} maxima, {len(statistics)} statistics: one of each "
            "per held-out image"
        )
    if num_scores < MIN_HELD_OUT_IMAGES:
        raise CategoryError(
            f"{num_scores} held-out good images, at least {MIN_HELD_OUT_IMAGES} are needed: "
            "add good images or raise train.calibration_share"
        )
    held_out, maxima = _sorted(scores, "image scores"), _sorted(pixel_maxima, "map maxima")
    calibration = Calibration(
        number=number,
        threshold=threshold_at(held_out, false_call_rate),
        pixel_threshold=threshold_at(maxima, false_call_rate),
        false_call_rate=false_call_rate,
        supported_false_call_rate=max(false_call_rate, 1 / (len(held_out) + 1)),
        scores=tuple(held_out.tolist()),
        pixel_maxima=tuple(maxima.tolist()),
        statistics={
            name: tuple(_sorted([getattr(s, name) for s in statistics], name).tolist())
            for name in ("brightness", "contrast", "sharpness")
        },
        by=by,
        why=why,
    )
    if calibration.warning:
        log.warning("calibration_support number=%d %s", number, calibration.warning)
    return calibration


def threshold_at(held_out: NDArray[np.float64], false_call_rate: float) -> float:
    """The ceil((n + 1)(1 - rate))-th smallest of n held-out values, the largest if n is too small.

    A part is anomalous strictly above it. It is itself one of the values, so a float32 score
    compares with it as exactly after storage as before.

    Raises:
        ValueError: no value, or a rate outside (0, 1).
    """
    if not len(held_out) or not 0 < false_call_rate < 1:
        raise ValueError(f"{len(held_out)} held-out values at rate {false_call_rate}")
    # The rate as written, in exact arithmetic: in floats 100 * 0.29 is below 29, one rank off.
    allowed = int((len(held_out) + 1) * Fraction(repr(float(false_call_rate))))
    return float(np.sort(held_out)[len(held_out) - max(allowed, 1)])


def at_rate(calibration: Calibration, false_call_rate: float) -> Calibration:
    """The calibration with its thresholds at another false-call rate, by the same held-out images.

    Raises:
        ValueError: a rate outside (0, 1).
    """
    held_out, maxima = np.array(calibration.scores), np.array(calibration.pixel_maxima)
    return replace(
        calibration,
        threshold=threshold_at(held_out, false_call_rate),
        pixel_threshold=threshold_at(maxima, false_call_rate),
        false_call_rate=false_call_rate,
        supported_false_call_rate=max(false_call_rate, 1 / (len(held_out) + 1)),
    )


def at_threshold(calibration: Calibration, threshold: float) -> Calibration:
    """The calibration with a threshold that a person sets; regions are drawn as before.

    Both its rates become (1 + #{held-out > threshold}) / (n + 1): what the held-out images say of
    that threshold, and never 0, however high it lies.

    Args:
        calibration: of the model.
        threshold: rounded to float32, as rows hold it: whoever compares theirs with their scores
            comes to the same verdicts.
    """
    threshold = float(np.float32(threshold))
    held_out = np.array(calibration.scores)
    above = len(held_out) - int(np.searchsorted(held_out, threshold, side="right"))
    rate = (1 + above) / (len(held_out) + 1)
    return replace(
        calibration,
        threshold=threshold,
        false_call_rate=rate,
        supported_false_call_rate=rate,
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
