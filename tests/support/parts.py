"""A small data set of drawn parts in MVTec AD layout, with painted defects and their exact masks.

The parts vary as real ones do (place, size, tone, grain); a scratch or a spot is painted over some
of them. Everything is drawn from one seed, so that two calls write the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

CATEGORIES = ("plate", "ring", "0012")
DEFECTS = ("scratch", "spot")

Image = NDArray[np.uint8]


def make_parts(
    folder: Path,
    categories: int = 2,
    train: int = 24,
    test_good: int = 6,
    test_defect: int = 6,
    size: int = 64,
) -> Path:
    """Writes `categories` parts (at most 3) below `folder` and returns it.

    `<category>/train/good`, `<category>/test/good`, `<category>/test/scratch|spot` by turns and
    `<category>/ground_truth/<defect>/<stem>_mask.png`; RGB images of `size` x `size` pixels.
    """
    for number, category in enumerate(CATEGORIES[:categories]):
        rng = np.random.default_rng([7, number])
        root = folder / category
        for n in range(train):
            _write(root / "train" / "good" / f"{n:03}.png", _part(rng, category, size))
        for n in range(test_good):
            _write(root / "test" / "good" / f"{n:03}.png", _part(rng, category, size))
        for n in range(test_defect):
            defect = DEFECTS[n % len(DEFECTS)]
            image, gt_mask = _damage(rng, _part(rng, category, size), defect)
            _write(root / "test" / defect / f"{n:03}.png", image)
            _write(root / "ground_truth" / defect / f"{n:03}_mask.png", gt_mask)
    return folder


def _part(rng: np.random.Generator, category: str, size: int) -> Image:
    """A part on a dark table, uint8 `[size, size, 3]`."""
    image = np.full((size, size, 3), 40, np.uint8)
    x, y = (int(v) for v in size // 2 + rng.integers(-2, 3, 2))
    radius = int(size * rng.uniform(0.36, 0.40))
    tone = tuple(int(v) for v in np.array([150, 160, 170]) + rng.integers(-8, 9))
    if category == "ring":
        cv2.circle(image, (x, y), radius, tone, thickness=max(size // 8, 2))
    else:
        cv2.rectangle(image, (x - radius, y - radius), (x + radius, y + radius), tone, -1)
        for dx in (-radius // 2, radius // 2):
            cv2.circle(image, (x + dx, y), max(size // 16, 1), (60, 60, 60), -1)
    grain = rng.normal(0, 4, image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def _damage(rng: np.random.Generator, image: Image, defect: str) -> tuple[Image, Image]:
    """The image with a defect on it, and the defect's mask, 255 where it was painted."""
    size = image.shape[0]
    gt_mask = np.zeros((size, size), np.uint8)
    x, y = (int(v) for v in rng.uniform(0.3, 0.7, 2) * size)
    if defect == "scratch":
        angle = rng.uniform(0, np.pi)
        end = (int(x + size / 4 * np.cos(angle)), int(y + size / 4 * np.sin(angle)))
        cv2.line(gt_mask, (x, y), end, 255, thickness=max(size // 24, 1))
    else:
        cv2.circle(gt_mask, (x, y), max(size // 14, 2), 255, -1)
    colour = (235, 235, 235) if defect == "scratch" else (30, 40, 120)
    return np.where(gt_mask[..., None] > 0, np.array(colour, np.uint8), image), gt_mask


def _write(path: Path, pixels: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels):
        raise OSError(f"cannot write {path}")
