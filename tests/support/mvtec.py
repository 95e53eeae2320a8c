"""Fifteen drawn categories by the names of MVTec AD, in its layout, with exact masks.

Five textures fill the picture, ten objects lie on a table; each has a defect of its surface and one
of its shape, painted over, and the mask holds just what was painted. All from one seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mrkd.evaluation import published_results

TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
CATEGORIES = tuple(published_results.sizes("mvtec"))
DEFECTS = ("cut", "stain")

Image = NDArray[np.uint8]


def make_mvtec(
    folder: Path,
    categories: Sequence[str] = CATEGORIES,
    *,
    train: int = 48,
    test: int = 4,
    size: int = 64,
) -> Path:
    """Writes the categories below a folder and returns it; `test` pictures of each kind."""
    for category in categories:
        rng = np.random.default_rng(zlib.crc32(category.encode()))
        root = folder / category
        for n in range(train):
            _write(root / "train" / "good" / f"{n:03}.png", _picture(rng, category, size))
        for n in range(test):
            _write(root / "test" / "good" / f"{n:03}.png", _picture(rng, category, size))
        for kind in DEFECTS:
            for n in range(test):
                picture, mask = _damaged(rng, _picture(rng, category, size), kind)
                _write(root / "test" / kind / f"{n:03}.png", picture)
                _write(root / "ground_truth" / kind / f"{n:03}_mask.png", mask)
    return folder


def _picture(rng: np.random.Generator, category: str, size: int) -> Image:
    """uint8 `[size, size, 3]`, its look by the category's name, its variation by the draw."""
    look = np.random.default_rng(zlib.crc32(category.encode()) + 1)
    colour, period = look.uniform(80, 200, 3), look.uniform(5, 12)
    grain = cv2.GaussianBlur(rng.normal(0, 1, (size, size)), (0, 0), look.uniform(0.6, 2.0))
    y, x = np.mgrid[:size, :size].astype(float)
    phase = rng.uniform(0, 2 * np.pi, 2)
    if category in TEXTURES:
        angle = look.uniform(0, np.pi) + rng.normal(0, 0.03)
        across = x * np.cos(angle) + y * np.sin(angle)
        along = y * np.cos(angle) - x * np.sin(angle)
        waves = np.sin(2 * np.pi * across / period + phase[0])
        waves += look.uniform(0, 1) * np.sin(2 * np.pi * along / period + phase[1])
        shade = 18 * waves + 10 * grain / grain.std()
        return _clipped(colour + shade[..., None])
    corners = int(look.integers(3, 9))
    centre = size / 2 + rng.normal(0, size / 60, 2)
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False) + rng.normal(0, 0.05)
    radius = size * 0.38 * look.uniform(0.7, 1.0, corners) * rng.uniform(0.97, 1.03)
    outline = centre + np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None]
    inside = np.zeros((size, size), np.uint8)
    cv2.fillPoly(inside, [outline.round().astype(np.int32)], 1)
    cv2.circle(inside, tuple(centre.round().astype(int).tolist()), size // 12, 2, -1)
    base = np.choose(inside[..., None], [np.full(3, 45.0), colour, 0.5 * colour])
    return _clipped(base + 4 * grain[..., None] / grain.std())


def _damaged(rng: np.random.Generator, picture: Image, kind: str) -> tuple[Image, Image]:
    """The picture with a defect on it, and a mask of 255 just where it was painted."""
    size = picture.shape[0]
    mask = np.zeros((size, size), np.uint8)
    place = rng.uniform(0.35, 0.65, 2) * size
    if kind == "cut":
        angle = rng.uniform(0, np.pi)
        away = size / 6 * np.array([np.cos(angle), np.sin(angle)])
        first, last = ((place + sign * away).round().astype(int).tolist() for sign in (-1, 1))
        cv2.line(mask, first, last, 255, max(2, size // 24))
        painted = np.full(3, 15.0)
    else:
        cv2.circle(mask, tuple(place.round().astype(int).tolist()), size // 10, 255, -1)
        painted = rng.uniform(0, 255, 3)
    return np.where(mask[..., None] > 0, _clipped(painted), picture), mask


def _clipped(values: NDArray[np.float64]) -> Image:
    return np.clip(values, 0, 255).astype(np.uint8)


def _write(path: Path, pixels: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
