"""One labelled image, and how a data set's folder is listed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from mrkd import storage
from mrkd.config import DataConfig, check_name
from mrkd.errors import ConfigError

Part = Literal["train", "val", "test"]
Side = Literal["train", "validation", "calibration"]

GOOD = "good"
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Sample:
    """One labelled image."""

    image_uri: str
    category: str
    split: Part
    gt_label: int
    """0 good, 1 anomalous."""
    defect: str
    """Kind of defect; `good` where there is none."""
    gt_mask_uri: str | None = None
    group: str | None = None
    """What no split may cut: a tile, a module, a lot."""
    headline: bool = True
    """Counts in the figures over all defects; False: only in those of its own defect."""
    etag: str = ""
    """ETag of its file as listed; a member of a container has its container's."""
    side: Side | None = None
    """Side that a good image is bound to; it then sets no threshold. None: its group decides."""
    sha256: str = ""
    """Digest of its file, where that is known beforehand."""


def category_folders(root: str) -> list[str]:
    """Names of the folders below a data set's root, hidden ones left out as by a shell's `*`.

    Raises:
        ConfigError: the root does not exist, or is empty.
    """
    names = [name for name in storage.list_names(root) if not name.startswith(".")]
    if not names and not storage.exists(root):
        raise ConfigError(f"data.root {root!r} is not there, or empty: check the path")
    return names


def chosen(names: Iterable[str], config: DataConfig) -> list[str]:
    """The categories that `config.categories` selects, sorted.

    Raises:
        ConfigError: a pattern occurs twice or fits none, or a name cannot be part of a path.
    """
    there = sorted(names)
    twice = [name for name, number in Counter(config.categories).items() if number > 1]
    if twice:
        raise ConfigError(f"data.categories names {twice[0]!r} twice: name it once")
    for pattern in config.categories:
        if not any(fnmatchcase(name, pattern) for name in there):
            listed = ", ".join(there[:20]) or "no folders"
            raise ConfigError(
                f"data.categories: {pattern!r} fits none in {config.root!r}; it has {listed}"
            )
    return [
        check_name("category", name)
        for name in there
        if any(fnmatchcase(name, pattern) for pattern in config.categories)
    ]


def image_files(root: str, category: str) -> dict[str, str]:
    """Path and ETag of each image below a category's folder, at any depth, sorted by path."""
    base = storage.join(root, category)
    files = storage.list_files(base, suffixes=SUFFIXES)
    return {file.uri.removeprefix(f"{base}/"): file.etag for file in files}


def place_of(key: str) -> float:
    """The key's position in [0, 1) by its hash, the same on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
