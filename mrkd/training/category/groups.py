"""Groups of good images that belong together; folds and sides of whole groups.

A threshold holds tomorrow if it was made on images that the model did not know, and a model knows
an image whose twin it was trained on: the next exposure of a part, the next shot of a run. So
groups stay whole, wherever images are held out.

Groups are the layout's, or those that `data.group` reads from file names, or are found. Found
groups are bursts, images of one part by their fine structure. Fewer than four bursts, or one of
more than half of the images, carry no information, as with a fixed camera whose every image looks
alike: they are cut into clusters of at most an eighth of the images, by the teacher's features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mrkd.config import FitConfig, ModelConfig
from mrkd.data.datasets import Side
from mrkd.data.datasets.sample import place_of
from mrkd.data.leak_check import same_part
from mrkd.model.feature_cache import TeacherFeatures
from mrkd.training.category.split_images import DecodedImages

MAX_FOLDS = 8
MIN_GROUPS_FOR_STUDENT = 16
_MIN_BURSTS = 4
_MIN_SIDED = 3
_PARTS = 8
"""A burst is cut into clusters of at most this fraction (one in `_PARTS`) of all images."""
_POOLED = 4
_ITERATIONS = 50

SIDES: tuple[Side, ...] = ("train", "validation", "calibration")

Source = Literal["given", "found"]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """The group of each image.

    Args:
        labels: int64 `[N]`, groups numbered from 0.
        source: where they come from.
    """

    labels: Labels
    source: Source

    def __len__(self) -> int:
        return int(self.labels.max(initial=-1)) + 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Images in each group."""
        return np.bincount(self.labels, minlength=len(self))


@dataclass(frozen=True)
class Split:
    """Folds and sides by which a category's good images are held out from each other.

    Args:
        groups: the group of each image.
        folds: int64 `[N]`, by whole groups.
        sides: sides of a student's training; without a student all images calibrate.
        calibrating: numbers of the images that thresholds are made with.
    """

    groups: Groups
    folds: Labels
    sides: list[Side]
    calibrating: Labels

    def on(self, side: Side) -> Labels:
        """Numbers of the images on a side."""
        return np.flatnonzero([one == side for one in self.sides])

    @property
    def held_out(self) -> Labels:
        """Numbers of the images that no student was trained on."""
        return np.flatnonzero([one != "train" for one in self.sides])

    @property
    def counts(self) -> dict[str, int]:
        """Number of images on each side."""
        return {side: len(self.on(side)) for side in SIDES}


def split_of(images: DecodedImages, groups: Groups, config: FitConfig, *, sided: bool) -> Split:
    """Folds of a category's good images, and sides if it is `sided`; else all images calibrate."""
    # Of one group nothing could be held out: each image is a group, and the calibration says so.
    folds = folds_of(groups if len(groups) > 1 else Groups(np.arange(len(images)), groups.source))
    calibrating = _calibrating(images)
    sides: list[Side] = ["train"] * len(images)
    dealt: list[Side] = ["calibration"] * len(calibrating)
    if sided:
        labels = np.unique(groups.labels[calibrating], return_inverse=True)[1]
        if labels.max(initial=-1) + 1 < _MIN_SIDED:
            labels = np.arange(len(calibrating))
        digests = [images.digests[n] for n in calibrating]
        dealt = sides_of(Groups(labels, groups.source), digests, config)
    for n, side in zip(calibrating.tolist(), dealt, strict=True):
        sides[n] = side
    return Split(groups, folds, sides, calibrating)


def _calibrating(images: DecodedImages) -> Labels:
    """Numbers of the images that may be held out."""
    return np.flatnonzero([one.calibrates for one in images.good])


def why_no_student(
    model: ModelConfig, train: FitConfig, images: DecodedImages, groups: Groups
) -> str:
    """The reason why a model gets no student although its config may ask for one; else empty.

    Beside cells, which need neither, a student needs enough images, and enough groups to hold some
    out on either side: with two of eight held out, ball screws' thresholds depended on which two (0
    to 21 % of good parts called at 1 % asked, tests/bench/LOG.md). Only images that may be held out
    count.
    """
    if not model.cells:
        return ""
    held_out = _calibrating(images)
    count, least = len(held_out), train.min_images_for_student
    number = len(np.unique(groups.labels[held_out]))
    if count < least:
        return f"{count} good images, fewer than train.min_images_for_student ({least})"
    if number < MIN_GROUPS_FOR_STUDENT:
        return (
            f"{number} groups of good images, fewer than {MIN_GROUPS_FOR_STUDENT}: those held "
            "out would be one or two"
        )
    return ""


def groups_of(images: DecodedImages, features: TeacherFeatures) -> Groups:
    """The groups of a category's good images, by the features of their squares if need be."""
    names = [one.sample.group for one in images.good]
    if any(name is not None for name in names):
        # An image without a group, such as a reviewed one, is a group of its own.
        keys = [
            f"group {name}" if name is not None else f"image {one.digest}"
            for name, one in zip(names, images.good, strict=True)
        ]
        return Groups(_numbered(keys), "given")
    # Copies are one image, however few others show what all images have in common.
    copies = _numbered(images.digests)
    _, first = np.unique(copies, return_index=True)
    parts = same_part([images.squares(n) for n in first.tolist()])[copies]
    sizes, most = np.bincount(parts), math.ceil(len(parts) / _PARTS)
    telling = len(sizes) >= _MIN_BURSTS and 2 * sizes.max() <= len(parts)
    labels, taken = np.zeros(len(parts), np.int64), 0
    looks: Tensor | None = None
    for part in range(len(sizes)):
        rows = np.flatnonzero(parts == part)
        clusters = np.zeros(len(rows), np.int64)
        if len(rows) > most and not telling:
            looks = _looks(images, features) if looks is None else looks
            clusters = _clusters(looks[torch.from_numpy(rows)], math.ceil(len(rows) / most))
        labels[rows] = taken + clusters
        taken += int(clusters.max()) + 1
    return Groups(labels, "found")


def folds_of(groups: Groups) -> Labels:
    """A fold for each image, whole groups, as even in images as these allow: int64 `[N]`.

    The largest groups are dealt first, each to the fold with the fewest images.
    """
    sizes = groups.sizes
    load = np.zeros(min(MAX_FOLDS, len(groups)), np.int64)
    fold = np.zeros(len(groups), np.int64)
    for group in np.argsort(-sizes, kind="stable"):
        fold[group] = load.argmin()
        load[fold[group]] += sizes[group]
    return fold[groups.labels]


def sides_of(groups: Groups, digests: Sequence[str], config: FitConfig) -> list[Side]:
    """The side of a student's training that each image is on, by count and whole groups.

    Groups are taken in the order of a hash over their content, so that an added or removed image
    moves the groups at the two borders and no others. A group that would make a side more than half
    as large again as it should be is left to the next side.
    """
    keys = [""] * len(groups)
    for digest, group in zip(digests, groups.labels, strict=True):
        # The group's first image by digest: an image that joins later hardly ever moves the group.
        keys[group] = min(filter(None, (keys[group], digest)))
    order = sorted(range(len(groups)), key=lambda g: place_of(f"side {keys[g]}"))
    sizes, total = groups.sizes, len(digests)
    chosen: list[Side] = ["train"] * len(groups)
    sides: tuple[tuple[Side, float], ...] = (
        ("calibration", config.calibration_share),
        ("validation", config.validation_share),
    )
    for side, share in sides:
        wanted, count = max(1, round(share * total)), 0
        free = [g for g in order if chosen[g] == "train"]
        fitting = [g for g in free if sizes[g] <= 1.5 * wanted] or sorted(
            free, key=lambda g: sizes[g]
        )[:1]
        for group in fitting:
            if count >= wanted:
                break
            if count + sizes[group] <= 1.5 * wanted or not count:
                chosen[group] = side
                count += int(sizes[group])
    return [chosen[group] for group in groups.labels]


def _numbered(keys: Sequence[str]) -> Labels:
    numbers = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], np.int64)


@torch.inference_mode()
def _looks(images: DecodedImages, features: TeacherFeatures) -> Tensor:
    """Points for the clusters: the mean and the coarse layout of a middle level, `[N, D]`."""
    level = features.teacher.strides.index(16) if 16 in features.teacher.strides else -1
    mean, std = features.statistics()[level]
    found = []
    for levels in features.batches():
        shown = levels[level].float().cpu()
        shown = (shown - mean.view(1, -1, 1, 1)) / std.clamp_min(1e-6).view(1, -1, 1, 1)
        coarse = F.adaptive_avg_pool2d(shown, _POOLED).flatten(1)
        found.append(torch.cat([shown.mean((2, 3)), coarse], 1))
    squares_D = torch.cat(found)
    return torch.stack([squares_D[rows].mean(0) for rows in images.rows])


def _clusters(points_ND: Tensor, number: int) -> Labels:
    """K-means from the point nearest to the middle and those farthest from all before (Lloyd)."""
    number = min(number, len(points_ND))
    chosen = [int((points_ND - points_ND.mean(0)).norm(dim=1).argmin())]
    nearest = (points_ND - points_ND[chosen[0]]).norm(dim=1)
    while len(chosen) < number:
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (points_ND - points_ND[chosen[-1]]).norm(dim=1))
    centres = points_ND[chosen].clone()
    for _ in range(_ITERATIONS):
        labels = torch.cdist(points_ND, centres).argmin(1)
        moved = torch.stack(
            [
                points_ND[labels == n].mean(0) if (labels == n).any() else centres[n]
                for n in range(len(centres))
            ]
        )
        if torch.equal(moved, centres):
            break
        centres = moved
    # Clusters that lost all their points leave no gap in the numbers.
    return np.asarray(np.unique(labels.numpy(), return_inverse=True)[1], np.int64)
