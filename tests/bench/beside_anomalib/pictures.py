"""The images of a comparison: noise, or a category of a folder in MVTec AD's layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from mrkd.config import DataConfig, TrainConfig
from mrkd.data import datasets, images
from mrkd.data.datasets import Sample
from mrkd.data.preprocess import Decoded, Preprocessor, decode_samples
from mrkd.model.teacher import Teacher
from mrkd.training.category.groups import SIDES, Groups, split_of
from mrkd.training.category.split_images import decode_good, read_good

T = TypeVar("T")

SIZE = 256
DECODER = Preprocessor(SIZE, "stretch")


@dataclass(frozen=True)
class Category:
    """Real images, decoded once for all models.

    Args:
        name: of the category.
        train: good images, uint8 `[N, SIZE, SIZE, 3]`, in the order of their digests.
        ids: of each of these its digest.
        validation: as `train`, held out.
        samples: of the test part.
        decoded: the same images.
        unseen: these, the part `val` and what training holds out: all that no step sees.
    """

    name: str
    train: np.ndarray
    ids: list[str]
    validation: np.ndarray
    samples: list[Sample]
    decoded: list[Decoded]
    unseen: list[Decoded]

    @classmethod
    def load(cls, root: str, name: str, config: TrainConfig) -> Self:
        """From the folder; the config has the shares that are held out."""
        samples = datasets.load(DataConfig(root=root, categories=(name,)))[name]
        good = [s for s in samples if s.split == "train" and not s.gt_label]
        found = decode_good(read_good(good)[0], DECODER)
        whole = Groups(np.arange(len(found)), "given")
        split = split_of(found, whole, config.train, sided=True)
        on = {side: split.on(side).tolist() for side in SIDES}
        test, val = ([s for s in samples if s.split == part] for part in ("test", "val"))
        decoded, others = list(decode_samples(test, DECODER)), list(decode_samples(val, DECODER))
        return cls(
            name,
            train=found.pixels[found.squares_of(on["train"])],
            ids=found.names(on["train"]),
            validation=found.pixels[found.squares_of(on["validation"])],
            samples=test,
            decoded=decoded,
            unseen=decoded + others + [found.decoded[n] for n in split.held_out],
        )

    def drawn(self, count: int) -> Self:
        """With so many of the test's images at most, of every kind of defect."""
        samples, decoded = evenly(self.samples, count), evenly(self.decoded, count)
        return replace(self, samples=samples, decoded=decoded)


def evenly(things: Sequence[T], count: int) -> list[T]:
    """So many of them at most, evenly over their order."""
    rows = np.linspace(0, len(things) - 1, min(count, len(things))).astype(int)
    return [things[n] for n in rows]


def pixels_of(category: Category | None, count: int) -> np.ndarray:
    """uint8 `[count, SIZE, SIZE, 3]`: good training images, over and over; noise without data."""
    if category is None:
        noise = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
        return np.asarray(noise)
    return np.asarray(np.resize(category.train, (count, *category.train.shape[1:])))


def tensor_of(pixels: np.ndarray, teacher: Teacher) -> Tensor:
    """What anomalib's loaders deliver: normalised, channels first in memory."""
    return images.to_tensor(torch.from_numpy(pixels), teacher.normalisation).contiguous()


def write_pictures(folder: Path, pixels: Sequence[np.ndarray] | np.ndarray) -> list[Sample]:
    """PNG files of these pixels, as samples."""
    import cv2

    folder.mkdir()
    found = []
    for number, rgb in enumerate(pixels):
        path = folder / f"{number:04}.png"
        assert cv2.imwrite(str(path), np.ascontiguousarray(rgb[..., ::-1]))
        found.append(Sample(str(path), "folder", "test", 0, datasets.GOOD))
    return found
