"""Drift in separate lights: the images, the scores of good parts, the share called defective.

A dark lamp changes images, a new batch of material changes scores, a broken tool changes
decisions; a plant must tell them apart. Each is set against the images that the model was
calibrated on and against earlier nights, and each light keeps the figure and the limits behind it:

- **images and scores**: how far tonight's distribution lies from the reference's, by the mean
  distance of their 5 ... 95 % quantiles, in spreads (interquartile range / 1.349) of the reference;
  a quantile counts 4 spreads at most, as between two kinds of parts a small share moves it far.
  Amber above 0.5, red above 1, each on top of what is usual: against calibration images
  2 * sqrt(1/n + 1/m), what chance makes of n and m images, and all times 1 + 2 / sqrt(n), as of few
  images the spread itself is a guess; against nights the median of what they differ among
  themselves, and three of its deviations (1.4826 * MAD), times 1 + 3 / nights, or 2 / sqrt(m) if
  that is more.
- **sizes**: the share of images, at least, that would have to be of another size or shape
  (Kolmogorov's distance of pixels and of width by height). Amber above 10 %, red above 30 %, on top
  of what is usual.
- **NOK rate**: against nights, its distance from their median. Amber above three, red above six of
  its usual changes (between nights and by chance), but not below a quarter, a half of the median.
  Against the calibration, what neither false calls nor the defects that are usual by the nights
  explain; at most amber, as defects are not drift.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mrkd.data.images import STATISTICS
from mrkd.model.artefact import Calibration
from mrkd.nights.drift.distances import distance, other_sizes, robust_spread, usual_change
from mrkd.nights.drift.profile import ProfileGroup, quantiles
from mrkd.nights.drift.usual_range import MIN_NIGHTS

Light = Literal["unknown", "green", "amber", "red"]
Against = Literal["calibration", "nights"]

MIN_IMAGES = 8
"""Fewer of a group are not judged."""
AMBER_SPREADS, RED_SPREADS = 0.5, 1.0
AMBER_SHARE, RED_SHARE = 0.1, 0.3


@dataclass(frozen=True)
class Finding:
    """One measure against one reference.

    Args:
        measure: brightness, contrast, sharpness, size, image_score or nok_rate.
        against: reference that it is set against.
        light: result of the comparison.
        figure: distance that it moved, in the measure's unit; below 0: down.
        amber: the figure's size above which it is no more green.
        red: above which it is red; infinite: it never is.
        now: the median, or the rate, tonight.
        usual: the reference's median, or rate.
        reason: reason why the light is unknown; else empty.
    """

    measure: str
    against: Against
    light: Light
    figure: float = 0.0
    amber: float = 0.0
    red: float = 0.0
    now: float = 0.0
    usual: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Lights:
    """The three lights of a group, each with all that it was judged by."""

    quality: tuple[Finding, ...]
    scores: tuple[Finding, ...]
    nok_rate: tuple[Finding, ...]

    @staticmethod
    def worst(findings: Sequence[Finding]) -> Light:
        """The worst light of several findings; green only if half of the measures were judged.

        A measure is judged if it was set against any reference. Images of one size alone say
        nothing of lamp and lens.
        """
        lights = {finding.light for finding in findings}
        for light in ("red", "amber"):
            if light in lights:
                return light
        measures = {finding.measure for finding in findings}
        judged = {finding.measure for finding in findings if finding.light != "unknown"}
        return "green" if measures and 2 * len(judged) >= len(measures) else "unknown"


@dataclass(frozen=True)
class CalibrationImages:
    """The images that a model was calibrated on.

    Args:
        num_images: number of images, of their scores and of their looks.
        quantiles: see `ProfileGroup.quantiles`; scores of those up to the threshold alone.
        sizes: see `ProfileGroup.sizes`; empty where they are not known.
        false_call_rate: rate that the calibration supports.
        ranges: ranges of all good images, see `good_ranges`; empty: not known.
    """

    num_images: Mapping[str, int]
    quantiles: Mapping[str, NDArray[np.float32]]
    sizes: Mapping[str, int] = field(default_factory=dict)
    false_call_rate: float = 0.01
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, calibration: Calibration, sizes: Mapping[str, int]) -> CalibrationImages:
        """What a calibration holds of its images; `sizes` are stored elsewhere."""
        scores = [value for value in calibration.scores if value <= calibration.threshold]
        values = {"image_score": scores, **calibration.statistics}
        return cls(
            # By median the scores are the training's and the looks the line's.
            num_images={
                "image_score": len(calibration.scores),
                **{name: len(found) for name, found in calibration.statistics.items()},
            },
            quantiles={name: quantiles(found) for name, found in values.items() if len(found)},
            sizes=sizes,
            false_call_rate=calibration.supported_false_call_rate,
            ranges=calibration.ranges,
        )


def judge(
    tonight: ProfileGroup, reference: CalibrationImages | None, nights: Sequence[ProfileGroup]
) -> Lights:
    """The lights of a group.

    Args:
        tonight: the group.
        reference: calibration images of the model that scored it; None where they cannot be read.
        nights: groups of this category and line in earlier nights.
    """
    nights = [night for night in nights if night.num_scored >= MIN_IMAGES]
    # Scores and decisions of another model or threshold are of another scale.
    alike = [night for night in nights if night.model == tonight.model]
    looks = [f for name in STATISTICS for f in _distribution(name, tonight, reference, nights)]
    return Lights(
        quality=(*looks, *_sizes(tonight, reference, nights)),
        scores=_distribution("image_score", tonight, reference, alike),
        nok_rate=_decisions(tonight, reference, alike),
    )


def _distribution(
    name: str,
    tonight: ProfileGroup,
    reference: CalibrationImages | None,
    nights: Sequence[ProfileGroup],
) -> tuple[Finding, ...]:
    now = tonight.quantiles.get(name)
    count = tonight.num_ok if name == "image_score" else tonight.num_scored
    if now is None or count < MIN_IMAGES:
        return _unknown(name, f"{count} images are too few to judge by")
    return (
        _of_calibration(name, now, count, reference),
        _of_nights(name, now, count, [n.quantiles[name] for n in nights if name in n.quantiles]),
    )


def _of_calibration(
    name: str, now: NDArray[np.float32], count: int, reference: CalibrationImages | None
) -> Finding:
    held_out = reference.quantiles.get(name) if reference else None
    if reference is None or held_out is None:
        return Finding(name, "calibration", "unknown", reason=_NO_CALIBRATION)
    number, medians = reference.num_images[name], (_median(now), _median(held_out))
    low, high = reference.ranges.get(name, (-math.inf, math.inf))
    is_outside = not low <= medians[0] <= high
    if number < MIN_IMAGES and not is_outside:
        reason = f"{number} calibration images are too few to judge by"
        return Finding(name, "calibration", "unknown", reason=reason)
    chance = 2 * float(np.sqrt(1 / number + 1 / count))
    guessed = 1 + 2 / float(np.sqrt(number))
    limits = (AMBER_SPREADS + chance) * guessed, (RED_SPREADS + chance) * guessed
    found = _finding(name, "calibration", distance(now, held_out), limits, *medians)
    # Half of the images at least lie outside all good ones, however few of these there are.
    return replace(found, light="red") if is_outside else found


def _of_nights(
    name: str, now: NDArray[np.float32], count: int, before: Sequence[NDArray[np.float32]]
) -> Finding:
    if len(before) < MIN_NIGHTS:
        return Finding(name, "nights", "unknown", reason=_too_few(len(before)))
    usual = np.median(np.stack(before), axis=0)
    # A night of few images differs more than those of many do among themselves.
    change = max(usual_change([distance(n, usual) for n in before]), 2 / float(np.sqrt(count)))
    limits = AMBER_SPREADS + change, RED_SPREADS + change
    return _finding(name, "nights", distance(now, usual), limits, _median(now), _median(usual))


def _sizes(
    tonight: ProfileGroup, reference: CalibrationImages | None, nights: Sequence[ProfileGroup]
) -> tuple[Finding, ...]:
    count = sum(tonight.sizes.values())
    if count < MIN_IMAGES:
        return _unknown("size", f"{count} images are too few to judge by")
    if reference is None or not reference.sizes:
        first = Finding("size", "calibration", "unknown", reason=_NO_CALIBRATION)
    else:
        held_out = sum(reference.sizes.values())
        chance = 1.36 * float(np.sqrt(1 / held_out + 1 / count))  # Kolmogorov and Smirnov's 5 %
        figure = other_sizes(tonight.sizes, reference.sizes)
        first = _finding("size", "calibration", figure, (AMBER_SHARE + chance, RED_SHARE + chance))
    before = [night.sizes for night in nights if night.sizes]
    if len(before) < MIN_NIGHTS:
        return first, Finding("size", "nights", "unknown", reason=_too_few(len(before)))
    pooled = sum(map(Counter, before), Counter[str]())
    chance = 1.36 / float(np.sqrt(count))
    change = max(usual_change([other_sizes(sizes, pooled) for sizes in before]), chance)
    limits = AMBER_SHARE + change, RED_SHARE + change
    return first, _finding("size", "nights", other_sizes(tonight.sizes, pooled), limits)


def _decisions(
    tonight: ProfileGroup, reference: CalibrationImages | None, nights: Sequence[ProfileGroup]
) -> tuple[Finding, ...]:
    rate, count = tonight.nok_rate, tonight.num_scored
    if rate is None or count < MIN_IMAGES:
        return _unknown("nok_rate", f"{count} images are too few to judge by")
    second = _decisions_of_nights(rate, count, nights)
    if reference is None:
        first = Finding("nok_rate", "calibration", "unknown", now=rate, reason=_NO_CALIBRATION)
        return first, second
    allowed = reference.false_call_rate
    chance = 3 * float(np.sqrt(allowed * (1 - allowed) / count))
    # What is usual by the nights asks for nobody, though false calls alone do not explain it.
    known = 0.0 if second.light == "unknown" else second.usual + second.amber - allowed
    limits = max(allowed + chance, known), float("inf")
    figure = max(rate - allowed, 0.0)
    return _finding("nok_rate", "calibration", figure, limits, rate, allowed), second


def _decisions_of_nights(rate: float, count: int, nights: Sequence[ProfileGroup]) -> Finding:
    rates = [night.num_nok / night.num_scored for night in nights]
    if len(rates) < MIN_NIGHTS:
        reason = _too_few(len(rates), " of this model and calibration")
        return Finding("nok_rate", "nights", "unknown", now=rate, reason=reason)
    usual = float(np.median(rates))
    expected = max(usual, 0.5 / count)
    chance = expected * (1 - expected)
    # What the nights differ by, less what their numbers of images make of one rate by chance.
    seen = robust_spread(rates)
    by_chance = chance / float(np.median([night.num_scored for night in nights]))
    change = float(np.sqrt(max(seen**2 - by_chance, 0) + chance / count))
    limits = max(3 * change, usual / 4, 0.002), max(6 * change, usual / 2, 0.005)
    return _finding("nok_rate", "nights", rate - usual, limits, rate, usual)


_NO_CALIBRATION = "the calibration's images are not known"


def _too_few(count: int, which: str = "") -> str:
    return f"{count} earlier nights{which}, {MIN_NIGHTS} are needed"


def _unknown(name: str, reason: str) -> tuple[Finding, ...]:
    both: tuple[Against, ...] = ("calibration", "nights")
    return tuple(Finding(name, against, "unknown", reason=reason) for against in both)


def _finding(
    measure: str,
    against: Against,
    figure: float,
    limits: tuple[float, float],
    now: float = 0.0,
    usual: float = 0.0,
) -> Finding:
    amber, red = limits
    light: Light = "red" if abs(figure) > red else "amber" if abs(figure) > amber else "green"
    return Finding(measure, against, light, figure, amber, red, now, usual)


def _median(values: NDArray[np.float32]) -> float:
    return float(values[len(values) // 2])
