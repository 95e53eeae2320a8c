"""Drift in separate lights: the pictures, the scores of good parts, the share called defective.

A dark lamp changes pictures, a new batch of material changes scores, a broken tool changes
decisions; a plant must tell them apart. Each is set against the images that the model was
calibrated on and against earlier nights, and each light keeps the figure and the limits behind it:

- **pictures and scores**: how far tonight's distribution lies from the reference's, by the mean
  distance of their 5 ... 95 % quantiles, in spreads (interquartile range / 1.349) of the reference.
  Amber above 0.5, red above 1, each on top of what is usual: against calibration images
  2 * sqrt(1/n + 1/m), what chance makes of n and m images; against nights the median of what they
  differ among themselves, and three of its deviations (1.4826 * MAD).
- **sizes**: the share of images, at least, that would have to be of another size or shape
  (Kolmogorov's distance of pixels and of width by height). Amber above 10 %, red above 30 %, on top
  of what is usual.
- **NOK rate**: against nights, its distance from their median. Amber above three, red above six of
  its usual changes (between nights and by chance), but not below a quarter, a half of the median.
  Against the calibration, what false calls do not explain; at most amber, as defects are no drift.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mrkd.checkpoint import Calibration
from mrkd.profiles.bands import MIN_NIGHTS
from mrkd.profiles.profile import Group, quantiles

Light = Literal["unknown", "green", "amber", "red"]
Against = Literal["calibration", "nights"]
LOOKS = ("brightness", "contrast", "sharpness")

MIN_IMAGES = 8
"""Fewer of a group are not judged."""
AMBER_SPREADS, RED_SPREADS = 0.5, 1.0
AMBER_SHARE, RED_SHARE = 0.1, 0.3
# Images that hardly differ among themselves: 2 % of their median counts as one spread.
_LEAST_SPREAD = 0.02
_INNER = slice(1, -1)
"""Quantiles but for the least and the greatest value, which one odd image decides."""


@dataclass(frozen=True)
class Finding:
    """One measure against one reference.

    Args:
        measure: brightness, contrast, sharpness, size, image_score or nok_rate.
        against: which reference.
        light: what it comes to.
        figure: how far it moved, in the measure's unit; below 0: down.
        amber: the figure's size above which it is no more green.
        red: above which it is red; infinite: it never is.
        now: the median, or the rate, tonight.
        usual: the same of the reference.
        reason: why the light is unknown; else empty.
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
        """The light over several findings."""
        order: tuple[Light, ...] = ("unknown", "green", "amber", "red")
        return max((finding.light for finding in findings), key=order.index, default="unknown")


@dataclass(frozen=True)
class Reference:
    """The images that a model was calibrated on.

    Args:
        num_images: how many.
        quantiles: as `Group.quantiles`; scores of those up to the threshold alone.
        sizes: as `Group.sizes`; empty where they are not known.
        false_call_rate: that the calibration supports.
    """

    num_images: int
    quantiles: Mapping[str, NDArray[np.float32]]
    sizes: Mapping[str, int] = field(default_factory=dict)
    false_call_rate: float = 0.01

    @classmethod
    def of(cls, calibration: Calibration, sizes: Mapping[str, int]) -> Reference:
        """What a calibration holds of its images; `sizes` are stored elsewhere."""
        scores = [value for value in calibration.scores if value <= calibration.threshold]
        values = {"image_score": scores, **calibration.statistics}
        return cls(
            num_images=len(calibration.scores),
            quantiles={name: quantiles(found) for name, found in values.items() if len(found)},
            sizes=sizes,
            false_call_rate=calibration.supported_false_call_rate,
        )


def judge(tonight: Group, reference: Reference | None, nights: Sequence[Group]) -> Lights:
    """The lights of a group.

    Args:
        tonight: the group.
        reference: of the model that scored it; None where that cannot be read.
        nights: the same category and line in earlier nights.
    """
    nights = [night for night in nights if night.num_scored >= MIN_IMAGES]
    # Scores and decisions of another model or threshold are of another scale.
    alike = [night for night in nights if night.model == tonight.model]
    looks = [f for name in LOOKS for f in _distribution(name, tonight, reference, nights)]
    return Lights(
        quality=(*looks, *_sizes(tonight, reference, nights)),
        scores=_distribution("image_score", tonight, reference, alike),
        nok_rate=_decisions(tonight, reference, alike),
    )


def _distribution(
    name: str, tonight: Group, reference: Reference | None, nights: Sequence[Group]
) -> tuple[Finding, ...]:
    now = tonight.quantiles.get(name)
    count = tonight.num_ok if name == "image_score" else tonight.num_scored
    if now is None or count < MIN_IMAGES:
        return _unknown(name, f"{count} images are too few to judge by")
    return (
        _of_calibration(name, now, count, reference),
        _of_nights(name, now, [n.quantiles[name] for n in nights if name in n.quantiles]),
    )


def _of_calibration(
    name: str, now: NDArray[np.float32], count: int, reference: Reference | None
) -> Finding:
    held_out = reference.quantiles.get(name) if reference else None
    if reference is None or held_out is None:
        return Finding(name, "calibration", "unknown", reason=_NO_CALIBRATION)
    chance = 2 * float(np.sqrt(1 / reference.num_images + 1 / count))
    return _finding(
        Finding(name, "calibration", "unknown", now=_median(now), usual=_median(held_out)),
        _distance(now, held_out),
        AMBER_SPREADS + chance,
        RED_SPREADS + chance,
    )


def _of_nights(
    name: str, now: NDArray[np.float32], before: Sequence[NDArray[np.float32]]
) -> Finding:
    if len(before) < MIN_NIGHTS:
        return Finding(name, "nights", "unknown", reason=_too_few(len(before)))
    usual = np.median(np.stack(before), axis=0)
    change = _usual_change([_distance(night, usual) for night in before])
    return _finding(
        Finding(name, "nights", "unknown", now=_median(now), usual=_median(usual)),
        _distance(now, usual),
        AMBER_SPREADS + change,
        RED_SPREADS + change,
    )


def _sizes(
    tonight: Group, reference: Reference | None, nights: Sequence[Group]
) -> tuple[Finding, ...]:
    count = sum(tonight.sizes.values())
    if count < MIN_IMAGES:
        return _unknown("size", f"{count} images are too few to judge by")
    if reference is None or not reference.sizes:
        first = Finding("size", "calibration", "unknown", reason=_NO_CALIBRATION)
    else:
        held_out = sum(reference.sizes.values())
        chance = 1.36 * float(np.sqrt(1 / held_out + 1 / count))  # Kolmogorov and Smirnov's 5 %
        figure = _other_sizes(tonight.sizes, reference.sizes)
        first = _finding(
            Finding("size", "calibration", "unknown"),
            figure,
            AMBER_SHARE + chance,
            RED_SHARE + chance,
        )
    before = [night.sizes for night in nights if night.sizes]
    if len(before) < MIN_NIGHTS:
        return first, Finding("size", "nights", "unknown", reason=_too_few(len(before)))
    pooled: dict[str, int] = {}
    for sizes in before:
        for size, number in sizes.items():
            pooled[size] = pooled.get(size, 0) + number
    change = _usual_change([_other_sizes(sizes, pooled) for sizes in before])
    second = _finding(
        Finding("size", "nights", "unknown"),
        _other_sizes(tonight.sizes, pooled),
        AMBER_SHARE + change,
        RED_SHARE + change,
    )
    return first, second


def _decisions(
    tonight: Group, reference: Reference | None, nights: Sequence[Group]
) -> tuple[Finding, ...]:
    rate, count = tonight.nok_rate, tonight.num_scored
    if rate is None or count < MIN_IMAGES:
        return _unknown("nok_rate", f"{count} images are too few to judge by")
    first = Finding("nok_rate", "calibration", "unknown", now=rate, reason=_NO_CALIBRATION)
    if reference is not None:
        allowed = reference.false_call_rate
        chance = 3 * float(np.sqrt(allowed * (1 - allowed) / count))
        first = _finding(
            Finding("nok_rate", "calibration", "unknown", now=rate, usual=allowed),
            max(rate - allowed, 0.0),
            allowed + chance,
            float("inf"),
        )
    rates = [night.num_nok / night.num_scored for night in nights]
    if len(rates) < MIN_NIGHTS:
        reason = _too_few(len(rates), " of this model and calibration")
        return first, Finding("nok_rate", "nights", "unknown", now=rate, reason=reason)
    usual = float(np.median(rates))
    expected = max(usual, 0.5 / count)
    chance = expected * (1 - expected)
    # What the nights differ by, less what their numbers of images make of one rate by chance.
    seen = 1.4826 * float(np.median(np.abs(np.array(rates) - usual)))
    by_chance = chance / float(np.median([night.num_scored for night in nights]))
    change = float(np.sqrt(max(seen**2 - by_chance, 0) + chance / count))
    second = _finding(
        Finding("nok_rate", "nights", "unknown", now=rate, usual=usual),
        rate - usual,
        max(3 * change, usual / 4, 0.002),
        max(6 * change, usual / 2, 0.005),
    )
    return first, second


_NO_CALIBRATION = "the calibration's images are not known"


def _too_few(count: int, which: str = "") -> str:
    return f"{count} earlier nights{which}, {MIN_NIGHTS} are needed"


def _unknown(name: str, reason: str) -> tuple[Finding, ...]:
    both: tuple[Against, ...] = ("calibration", "nights")
    return tuple(Finding(name, against, "unknown", reason=reason) for against in both)


def _finding(start: Finding, figure: float, amber: float, red: float) -> Finding:
    size = abs(figure)
    light: Light = "red" if size > red else "amber" if size > amber else "green"
    return Finding(start.measure, start.against, light, figure, amber, red, start.now, start.usual)


def _distance(now: NDArray[np.float32], usual: NDArray[np.float32]) -> float:
    """Mean distance of the inner quantiles in spreads of `usual`; below 0 where they fell."""
    lower, median, upper = (float(usual[place]) for place in (5, 10, 15))
    spread = max((upper - lower) / 1.349, _LEAST_SPREAD * abs(median), 1e-9)
    moved = (now.astype(np.float64) - usual)[_INNER] / spread
    return float(np.copysign(np.abs(moved).mean(), moved.mean()))


def _usual_change(distances: Sequence[float]) -> float:
    """What nights differ among themselves: the median, and three robust deviations."""
    sizes = np.abs(distances)
    median = float(np.median(sizes))
    return median + 3 * 1.4826 * float(np.median(np.abs(sizes - median)))


def _median(values: NDArray[np.float32]) -> float:
    return float(values[len(values) // 2])


def _other_sizes(now: Mapping[str, int], usual: Mapping[str, int]) -> float:
    """Kolmogorov's distance of the pixels and of the shapes, the larger one."""
    measures: tuple[Callable[[float, float], float], ...] = (
        lambda height, width: height * width,
        lambda height, width: width / height,
    )
    return max(_kolmogorov(now, usual, measure) for measure in measures)


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
