"""Ranges of good images: of their light, their colours, their size and the mean of their map.

A black, flat or blurred frame shows no part, yet a model may find nothing odd in it: a score that
takes off part of the map's mean loses most where everything is odd. An image outside the range of
all good images is therefore never OK, whatever its score.

A range reaches as far as an exponential tail would exceed with probability 0.5 % on either side
(`tail_limit`), and at least a step beyond the lowest and the highest good image, as good images of
one hour are more alike than those of a year. On 15 real sets 0 of 708 good test images lie outside
the ranges of brightness, contrast, sharpness and size (tests/bench/LOG.md).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mrkd.data.images import STATISTICS
from mrkd.data.preprocess import Decoded
from mrkd.model.tails import tail_limit

Ranges = Mapping[str, tuple[float, float]]
"""Lowest and highest value of each measure."""

MAP_MEAN = "map_mean"

_RATE = 0.005
_SMALLEST = 1e-6
_MIN_MEANS = 4
"""Means of maps from which on there is a range: their scale is the model's own."""
# Brightness may not be 0 or 1 in the logit: half a level of 8 bits.
_HALF_LEVEL = 0.5 / 255


def _logit(value: float) -> float:
    value = min(max(value, _HALF_LEVEL), 1 - _HALF_LEVEL)
    return math.log(value / (1 - value))


def _log(value: float) -> float:
    return math.log(max(value, _SMALLEST))


def _same(value: float) -> float:
    return value


_SCALES: Mapping[str, tuple[Callable[[float], float], Callable[[float], float], float]] = (
    MappingProxyType(
        {
            "brightness": (_logit, lambda x: 1 / (1 + math.exp(-x)), 0.3),
            "contrast": (_log, math.exp, 0.35),
            "sharpness": (_log, math.exp, 1.0),
            "tint_red": (_same, _same, 0.04),
            "tint_blue": (_same, _same, 0.04),
            "skewness": (_same, _same, 0.4),
            "size": (_log, math.exp, 0.4),
        }
    )
)
"""The scale of each measure on which its spread is judged, back, and the least step beyond."""


def tones(pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Tints and skewness of uint8 RGB pixels, which a negative changes most.

    The tints are the means of Cr and Cb (ITU-R BT.601), each -0.5 to 0.5, 0 for grey; the skewness
    is that of the luma's distribution, 0 where it is flat.
    """
    rows = pixels.reshape(1, -1, 3)
    red, green, blue = np.array(cv2.mean(rows))[:3] / 255
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    counts = np.bincount(cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY)[0], minlength=256)
    away = np.arange(256) - counts @ np.arange(256) / rows.shape[1]
    second, third = (float(counts @ away**power) / rows.shape[1] for power in (2, 3))
    return {
        "tint_red": float(red - luma) / 1.402,
        "tint_blue": float(blue - luma) / 1.772,
        "skewness": third / second**1.5 if second else 0.0,
    }


def look_of(image: Decoded) -> dict[str, float]:
    """Brightness, contrast, sharpness, tints, skewness and size of a decoded image."""
    assert image.statistics is not None
    assert image.geometry is not None
    assert image.pixels is not None
    height, width = image.geometry.original
    own = {**vars(image.statistics), "image_height": height, "image_width": width}
    return look_of_row(own) | tones(image.pixels)


def look_of_row(row: Mapping[str, Any]) -> dict[str, float]:
    """The look in a row of `schema.SCORES`, which holds no tones and not the mean of a map."""
    size = math.sqrt(row["image_height"] * row["image_width"])
    return {name: float(row[name]) for name in STATISTICS} | {"size": size}


def ranges_of(looks: Iterable[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """The range of each measure, from the images that have it."""
    values: dict[str, list[float]] = defaultdict(list)
    for look in looks:
        for name, value in look.items():
            values[name].append(value)
    means = values.pop(MAP_MEAN, [])
    found = {}
    for name, own in values.items():
        there, back, step = _SCALES[name]
        low, high = _range([there(value) for value in own], step)
        found[name] = back(low), back(high)
    if len(means) >= _MIN_MEANS:
        found[MAP_MEAN] = _range(means, 2 * float(np.std(means)))
    return found


def _range(values: list[float], step: float) -> tuple[float, float]:
    rising = np.sort(np.asarray(values, np.float64))
    low, high = -tail_limit(-rising[::-1], _RATE), tail_limit(rising, _RATE)
    return min(low, float(rising[0]) - step), max(high, float(rising[-1]) + step)


def merged(one: Ranges, other: Ranges) -> dict[str, tuple[float, float]]:
    """The ranges of the images of both; a measure that one of them lacks has none."""
    return {
        name: (min(one[name][0], other[name][0]), max(one[name][1], other[name][1]))
        for name in one
        if name in other
    }


def outside(ranges: Ranges, look: Mapping[str, float]) -> str:
    """The measures of an image that lie outside, each with its range; empty: none.

    A map may be as calm as it likes: an image that the model was trained on has such a one.
    """
    off = [
        f"{name} {look[name]:.3g}, good images {low:.3g} to {high:.3g}"
        for name, (low, high) in ranges.items()
        if name in look and (look[name] > high or (look[name] < low and name != MAP_MEAN))
    ]
    return "; ".join(off)
