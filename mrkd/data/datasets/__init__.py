"""Labelled data: every folder layout becomes the same lists of samples.

- `mvtec`: `<category>/train/good`, `test/<defect>`, `ground_truth/<defect>/<stem>_mask.png`; a
  `split.csv` in or beside the category may move images between the parts and name groups
- `folder`: `<category>/*.png`, all good, all for training
- `elpv`: the data folder of the package elpv_dataset
- `cifar10`: sheets, python or binary batches; ten categories, in each of which one class is good
- `visa`: the folder of VisA_20220922.tar, parts and labels by its `split_csv/1cls.csv`

A new layout is a function from DataConfig to samples by category, and a row in `LAYOUTS`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from mrkd import storage
from mrkd.config import DataConfig
from mrkd.config.data import group_pattern
from mrkd.config.toml import nearest
from mrkd.data import images
from mrkd.data.datasets.cifar10 import cifar10, read_member
from mrkd.data.datasets.elpv import elpv
from mrkd.data.datasets.folders import folder, mvtec
from mrkd.data.datasets.sample import GOOD, Listing, Part, Sample, Side
from mrkd.data.datasets.visa import read_gt_numbers, visa
from mrkd.data.images import Geometry
from mrkd.errors import CategoryError, ConfigError, ImageDecodeError, StorageError

log = logging.getLogger(__name__)

__all__ = [
    "GOOD",
    "LAYOUTS",
    "Listing",
    "Part",
    "Sample",
    "Side",
    "excluded",
    "load",
    "read_gt_mask",
    "read_image",
]

LAYOUTS: dict[str, Callable[[DataConfig], Listing]] = {
    "mvtec": mvtec,
    "folder": folder,
    "elpv": elpv,
    "cifar10": cifar10,
    "visa": visa,
}


def load(config: DataConfig, *, reviewed: Iterable[str] = ()) -> Listing:
    """The samples of each category that `config.categories` selects, categories sorted by name.

    A category whose folder holds no image is there with an empty list. What cannot be used is among
    the failures and notes of the listing, and is logged.

    Args:
        config: the data set.
        reviewed: URIs of further images that `config.exclude` may name.

    Raises:
        ConfigError: the root is missing or of another layout, a pattern fits no category, no
            category's name can be part of a path, a split file does not fit its images, or an
            entry of `config.exclude` fits no training image.
    """
    found = _listed(config)
    for line in found.reasons:
        log.warning("not_used %s", line)
    if config.exclude:
        _check_exclude(config, found, reviewed)
    kept = {
        category: [
            one for one in samples if one.split != "train" or not excluded(one.image_uri, config)
        ]
        for category, samples in found.items()
    }
    return found.filled(_in_groups(kept, config.group) if config.group else kept)


def excluded(uri: str, config: DataConfig) -> bool:
    """Whether an entry of `config.exclude` is an image's URI, or its last path components.

    The member of a container counts as a component: `0.png` fits `<tar>#0.png`.
    """
    return any(_fits(uri, entry) for entry in config.exclude)


def _fits(uri: str, entry: str) -> bool:
    return uri == entry or (entry != "" and uri.endswith((f"/{entry.lstrip('/')}", f"#{entry}")))


def _listed(config: DataConfig) -> Listing:
    try:
        return LAYOUTS[config.layout](config)
    except (StorageError, ImageDecodeError) as error:
        raise ConfigError(f"data.root {config.root!r} cannot be loaded: {error}") from error


def _check_exclude(
    config: DataConfig, found: Mapping[str, Sequence[Sample]], reviewed: Iterable[str]
) -> None:
    uris = [*_training_uris(found), *reviewed]
    missing = [entry for entry in config.exclude if not any(_fits(uri, entry) for uri in uris)]
    if missing and config.categories != ("*",):
        # An entry may name an image of a category that is not selected this time.
        uris += _training_uris(_listed(replace(config, categories=("*",))))
        missing = [entry for entry in missing if not any(_fits(uri, entry) for uri in uris)]
    if missing:
        ends = {"/".join(uri.split("/")[-len(missing[0].split("/")) :]) for uri in uris}
        raise ConfigError(
            f"data.exclude names {missing[0]!r}, which fits no training image"
            f"{nearest(missing[0], sorted(ends))}"
        )


def _training_uris(found: Mapping[str, Sequence[Sample]]) -> list[str]:
    return [one.image_uri for some in found.values() for one in some if one.split == "train"]


def _in_groups(found: dict[str, list[Sample]], pattern: str) -> dict[str, list[Sample]]:
    """The samples in the groups that `data.group` reads from their names.

    An image that is named otherwise is a group of its own, and is logged.

    Raises:
        ConfigError: no good image is named so.
    """
    fitting = group_pattern(pattern).fullmatch
    grouped, num_named = dict[str, list[Sample]](), 0
    for category, samples in found.items():
        names = [fitting(PurePosixPath(one.image_uri).stem) for one in samples]
        grouped[category] = [
            replace(one, group=" ".join(name.groups()) if name else None)
            for one, name in zip(samples, names, strict=True)
        ]
        good = [one for one in grouped[category] if one.split == "train"]
        others = [one.image_uri for one in good if one.group is None]
        num_named += len(good) - len(others)
        if others:
            log.warning(
                "not_in_groups category=%s images=%d of=%d first=%s: named otherwise than "
                "data.group, %r",
                category, len(others), len(good), others[0], pattern,
            )  # fmt: skip
    if not num_named and any(one.split == "train" for own in found.values() for one in own):
        raise ConfigError(
            f"data.group is {pattern!r}, and no good image is named so: make it fit their names "
            "without their endings, with * for what varies besides"
        )
    return grouped


def read_image(image: Sample | str) -> bytes:
    """The file at an image's or gt_mask's URI as stored, or a PNG file where the URI names a part.

    That is a member of a CIFAR-10 batch, or what is not 0 in a mask of VisA.

    Raises:
        StorageError: it cannot be read.
        ImageDecodeError: its batch or mask is damaged, or has no such member.
    """
    uri = image.image_uri if isinstance(image, Sample) else image
    for read in (read_member, read_gt_numbers):
        data = read(uri)
        if data is not None:
            return data
    return storage.read(uri)


def read_gt_mask(uri: str, geometry: Geometry) -> NDArray[np.bool_]:
    """The mask at the map's size: bool `[H, W]`, True where `images.to_gt_mask` finds a defect.

    Raises:
        CategoryError: it is missing, not an image, or not of its image's size.
        StorageError: storage is unreachable for now.
    """
    try:
        gt_mask = images.to_gt_mask(images.decode(read_image(uri)))
    except (ImageDecodeError, StorageError) as error:
        if error.kind == "unreachable":
            raise
        raise CategoryError(f"its gt_mask {uri!r} cannot be read: {error}") from error
    if gt_mask.shape != geometry.original:
        raise CategoryError(
            f"its gt_mask {uri!r} is {gt_mask.shape}, its image {geometry.original}: they must be "
            "of one size"
        )
    return images.resize_mask(gt_mask, geometry)
