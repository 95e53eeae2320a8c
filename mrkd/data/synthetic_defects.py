"""Made defects on good images, for categories in which nobody has labelled a real one.

Three kinds, each after what real parts show: a piece that sits where it does not belong (CutPaste,
Li et al. 2021), a stain of another texture with a ragged outline (after DRAEM, Zavrtanik et al.
2021, with noise instead of a library of textures), and a scratch. They take their tones from the
image itself: on a grey image a coloured one would be found for its colour alone.

A defect is drawn in a window around its middle, so that its cost is that of its own area.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mrkd import seeds
from mrkd.data import datasets
from mrkd.data import images as rasters
from mrkd.data.datasets import Sample
from mrkd.data.roi import Roi
from mrkd.errors import ImageDecodeError, StorageError

Kind = Literal["cut_paste", "texture", "scratch"]
Size = Literal["small", "medium", "large"]
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

KINDS: tuple[Kind, ...] = ("cut_paste", "texture", "scratch")

# Side of a square of the defect's area, as a share of the side of what is inspected.
_EXTENTS: dict[Size, tuple[float, float]] = {
    "small": (0.03, 0.06),
    "medium": (0.06, 0.12),
    "large": (0.12, 0.25),
}
SIZES = tuple(_EXTENTS)

# Mean change in grey levels below which a defect would drown in a camera's noise.
MIN_CHANGE = 12.0
_ATTEMPTS = 8
_STAIN = 40


@dataclass(frozen=True)
class Defect:
    """A good image with a made defect.

    Args:
        pixels: uint8 `[H, W, 3]` RGB.
        gt_mask: bool `[H, W]`, True on the defect: the image is unchanged elsewhere.
        kind: one of `KINDS`.
        size: one of `SIZES`.
    """

    pixels: Pixels
    gt_mask: NDArray[np.bool_]
    kind: Kind
    size: Size


@dataclass(frozen=True)
class DrawnImages:
    """An image as stored and, if asked for, again with each kind of made defect.

    Args:
        digest: sha256 of its file; empty where there is none.
        shown: label (1 with a made defect), uint8 RGB and bool mask of the defect `[H, W]` of each;
            empty where the image cannot be read, or a region of interest does not fit it.
    """

    digest: str = ""
    shown: Sequence[tuple[int, Pixels, NDArray[np.bool_]]] = ()


def read_and_draw(sample: Sample, roi: Roi | None, *, seed: int, with_defects: bool) -> DrawnImages:
    """An image and its made defects, which lie in the region of interest.

    Raises:
        StorageError: the image cannot be reached. It may come back, and a decision by the images
            that could be read today would pass for one by all.
    """
    try:
        data = datasets.read_image(sample)
        rgb = rasters.decode(data)
    except ImageDecodeError:
        return DrawnImages()
    except StorageError as error:
        if error.kind == "unreachable":
            raise
        return DrawnImages()
    if roi and roi.misfit(rgb.shape[:2]):
        return DrawnImages()
    digest, inside = hashlib.sha256(data).hexdigest(), roi.mask if roi else None
    made = defects([rgb], seed=seed, keys=[digest], inside=inside) if with_defects else []
    good = (0, rgb, np.zeros(rgb.shape[:2], bool))
    return DrawnImages(digest, [good, *((1, one.pixels, one.gt_mask) for one in made)])


def defects(
    images: Sequence[Pixels],
    *,
    seed: int,
    keys: Sequence[str],
    inside: NDArray[np.bool_] | None = None,
) -> list[Defect]:
    """One defect of each kind on each image, by turns, its size by lot.

    Args:
        images: uint8 `[H, W, 3]` RGB, of good parts.
        seed: seed of the draws.
        keys: names of the images. Seed, key and kind decide what is drawn, whatever the other
            images are.
        inside: bool `[H, W]`, where defects may lie in all of them; None: everywhere.

    Raises:
        ValueError: as `defect`, or there is not one key for each image.
    """
    made = []
    for pixels, key in zip(images, keys, strict=True):
        for kind in KINDS:
            rng = seeds.stream(seed, "synthetic", key, kind)
            size = SIZES[rng.integers(len(SIZES))]
            made.append(Defect(*defect(pixels, rng, kind, size=size, inside=inside), kind, size))
    return made


def defect(
    pixels: Pixels,
    rng: np.random.Generator,
    kind: Kind,
    *,
    size: Size,
    inside: NDArray[np.bool_] | None = None,
) -> tuple[Pixels, NDArray[np.bool_]]:
    """A copy of the image with a defect on it, and where that lies.

    Args:
        pixels: uint8 `[H, W, 3]` RGB.
        rng: all that is drawn comes from it.
        kind: one of `KINDS`.
        size: size of its area; a scratch is as much longer as it is thinner.
        inside: bool `[H, W]`, where it may lie; None: everywhere.

    Returns:
        uint8 `[H, W, 3]`, and a bool mask `[H, W]` that is never empty, lies inside, and in which
        the image differs by `MIN_CHANGE` grey levels on average; elsewhere it is as it was.

    Raises:
        ValueError: no pixel can be drawn on, or `inside` is of another size.
    """
    if inside is not None and inside.shape != pixels.shape[:2]:
        raise ValueError(f"inside is {inside.shape}, the image {pixels.shape[:2]}")
    positions = None if inside is None else np.flatnonzero(inside)
    num_positions = pixels[..., 0].size if positions is None else len(positions)
    if not num_positions:
        raise ValueError("no pixel to draw on: the image, or what is inside, is empty")
    side = min(*pixels.shape[:2], math.sqrt(num_positions))
    for attempt in range(_ATTEMPTS):
        drawn = int(rng.integers(num_positions))
        position = drawn if positions is None else int(positions[drawn])
        extent = max(side * rng.uniform(*_EXTENTS[size]), 1.0)
        window = _Window.around(pixels, position, extent)
        changed, shape = _DRAW[kind](pixels, window, extent, rng)
        # The middle is inside, so that something always is.
        shape[window.middle] = True
        if inside is not None:
            shape &= inside[window.part]
        before = pixels[window.part][shape]
        after = np.clip(changed[shape], 0, 255).astype(np.uint8)
        if attempt == _ATTEMPTS - 1 and _change(before, after) < MIN_CHANGE:
            after = _stained(before)
        if _change(before, after) >= MIN_CHANGE:
            break
    made, gt_mask = pixels.copy(), np.zeros(pixels.shape[:2], bool)
    gt_mask[window.part] = shape
    made[gt_mask] = after
    return made, gt_mask


@dataclass(frozen=True)
class _Window:
    """The part of an image on which a defect is drawn, and the defect's middle within it."""

    part: tuple[slice, slice]
    middle: tuple[int, int]
    shape: tuple[int, int]

    @classmethod
    def around(cls, pixels: Pixels, position: int, extent: float) -> _Window:
        """The window around the `position`-th pixel that holds any defect of that extent."""
        reach = math.ceil(1.5 * extent) + 2
        parts, middle = [], []
        for at, length in zip(divmod(position, pixels.shape[1]), pixels.shape[:2], strict=True):
            parts.append(slice(max(at - reach, 0), min(at + reach + 1, length)))
            middle.append(at - parts[-1].start)
        rows, columns = parts
        shape = rows.stop - rows.start, columns.stop - columns.start
        return cls((rows, columns), (middle[0], middle[1]), shape)

    def turned(self, angle: float) -> tuple[Floats, Floats]:
        """Each pixel's distance from the middle, along and across an angle: float32 `[h, w]`."""
        y = (np.arange(self.shape[0], dtype=np.float32) - self.middle[0])[:, None]
        x = (np.arange(self.shape[1], dtype=np.float32) - self.middle[1])[None]
        cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
        return x * cos + y * sin, y * cos - x * sin


Drawn = tuple[Floats, NDArray[np.bool_]]
"""Pixels of a window, float32 `[h, w, 3]`, and the defect's shape `[h, w]`."""


def _cut_paste(pixels: Pixels, window: _Window, extent: float, rng: np.random.Generator) -> Drawn:
    """A rectangle from elsewhere in the image, turned, a little lighter or darker."""
    along, across = window.turned(rng.uniform(0, 2 * math.pi))
    # Aspects from 0.3 to 3.3 and a jitter of 10 %: CutPaste, section 2.2.
    stretch = math.sqrt(3.3 ** rng.uniform(-1, 1))
    half_along, half_across = extent * stretch / 2, extent / stretch / 2
    shape = (np.abs(along) <= half_along) & (np.abs(across) <= half_across)
    height, width = pixels.shape[:2]
    y = _within(half_across, height, rng) + across
    x = _within(half_along, width, rng) + along
    # The nearest pixel: between pixels the grain would blur, and give the piece away.
    rows = np.clip(np.rint(y), 0, height - 1).astype(np.intp)
    columns = np.clip(np.rint(x), 0, width - 1).astype(np.intp)
    piece = pixels[rows, columns].astype(np.float32)
    tone = piece[shape].mean() if shape.any() else np.float32(0)
    contrast, shift = rng.uniform(0.9, 1.1), rng.uniform(-25, 25)
    return (piece - tone) * np.float32(contrast) + tone + np.float32(shift), shape


def _texture(pixels: Pixels, window: _Window, extent: float, rng: np.random.Generator) -> Drawn:
    """A blot with a ragged outline, of noise between two tones, through which the part shows."""
    local = pixels[window.part].astype(np.float32)
    along, across = window.turned(rng.uniform(0, math.pi))
    stretch = math.sqrt(2 ** rng.uniform(0, 1))
    distance = np.hypot(along / np.float32(stretch), across * np.float32(stretch))
    depth = 1 - distance / np.float32(0.6 * extent) + 1.6 * (_noise(window, extent, rng) - 0.5)
    shape = np.asarray(depth > 0)
    shades = [_shade(local, rng, rng.uniform(25, 110)) for _ in range(2)]
    grain = _noise(window, extent / 3, rng)[..., None]
    blot = shades[0] + (shades[1] - shades[0]) * grain
    opacity = np.float32(rng.uniform(0.4, 0.9)) * np.clip(depth / 0.3, 0.4, 1)[..., None]
    return local + (blot - local) * opacity, shape


def _scratch(pixels: Pixels, window: _Window, extent: float, rng: np.random.Generator) -> Drawn:
    """A thin bent stroke that ends in points, at times two, lighter or darker than the part."""
    local = pixels[window.part].astype(np.float32)
    angle, bend = rng.uniform(0, 2 * math.pi), rng.uniform(-0.3, 0.3)
    width = extent * rng.uniform(0.03, 0.09)
    strokes = np.zeros(window.shape, np.uint8)
    for n in range(2 if rng.random() < 0.3 else 1):
        half = 1.2 * extent * (rng.uniform(0.3, 0.7) if n else 1)
        # Each time shorter and thicker.
        for share in (1, 0.75, 0.5):
            along = np.linspace(-half, half, 32) * share
            across = bend / half * along**2 + 0.04 * half * np.sin(3 * along / half)
            across += n * (2 + 3 * width)
            x = window.middle[1] + along * math.cos(angle) - across * math.sin(angle)
            y = window.middle[0] + along * math.sin(angle) + across * math.cos(angle)
            points = np.rint(np.stack([x, y], axis=1) * 16).astype(np.int32)
            thickness = max(1, round(width * (1.25 - share)))
            cv2.polylines(strokes, [points], False, (255,), thickness, cv2.LINE_AA, 4)
    shape = np.asarray(strokes > 80)
    shade = _shade(local, rng, rng.uniform(50, 120))
    opacity = strokes / np.float32(255) * (0.6 + 0.4 * _noise(window, extent / 2, rng))
    return local + (shade - local) * opacity[..., None], shape


_DRAW: dict[Kind, Callable[[Pixels, _Window, float, np.random.Generator], Drawn]] = {
    "cut_paste": _cut_paste,
    "texture": _texture,
    "scratch": _scratch,
}


def _within(margin: float, length: int, rng: np.random.Generator) -> np.float32:
    """A position that far from both ends of an axis, or its middle if none is."""
    margin = min(margin, (length - 1) / 2)
    return np.float32(rng.uniform(margin, length - 1 - margin))


def _noise(window: _Window, period: float, rng: np.random.Generator) -> Floats:
    """Fractal noise in [0, 1], float32 `[h, w]`: grids from `period` pixels on, ever weaker."""
    height, width = window.shape
    total = np.zeros(window.shape, np.float32)
    for octave in range(4):
        cell = max(period / 2 ** (octave + 1), 1.0)
        grid = rng.random((math.ceil(height / cell) + 1, math.ceil(width / cell) + 1), np.float32)
        fine = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        total += np.asarray(fine, np.float32) / np.float32(2**octave)
    span = np.float32(max(float(np.ptp(total)), 1e-6))
    return np.asarray((total - total.min()) / span, np.float32)


def _shade(local: Floats, rng: np.random.Generator, change: float) -> Floats:
    """A colour of these pixels, lighter or darker by `change` levels: float32 `[3]`."""
    colours = local.reshape(-1, 3)
    colour = colours[rng.integers(len(colours))]
    lighter = rng.random() < 0.5
    tone = float(colours.mean())
    if not change < tone < 255 - change:
        lighter = tone < 127.5
    shade: Floats = colour + np.float32(change if lighter else -change)
    return shade


def _stained(before: Pixels) -> Pixels:
    """Pixels lighter or darker, whichever has room: the change that no image can hide."""
    step = _STAIN if before.mean() < 127.5 else -_STAIN
    return np.clip(before.astype(np.int16) + step, 0, 255).astype(np.uint8)


def _change(before: Pixels, after: Pixels) -> float:
    """Mean change, in grey levels."""
    return float(np.abs(after.astype(np.int16) - before).mean())
