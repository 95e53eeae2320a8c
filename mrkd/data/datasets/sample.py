"""One labelled image, and how a data set's folder is listed."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Literal

from mrkd import storage
from mrkd.config import DataConfig, check_name
from mrkd.errors import ConfigError

log = logging.getLogger(__name__)

Part = Literal["train", "val", "test"]
Side = Literal["train", "validation", "calibration"]

GOOD = "good"
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp")

_OF_SYSTEMS = {
    *("lost+found", "__macosx", "@eadir", "system volume information", "$recycle.bin"),
    *("#recycle", "#snapshot", "thumbs.db", "desktop.ini"),
}
"""Names that file systems, servers and archivers make, in lower case."""


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


class Listing(dict[str, list[Sample]]):
    """The samples of each category of a data set, and what of it cannot be used.

    Args:
        samples: samples by category, sorted by name.
        failed: reason of each category that cannot be used.
        notes: lines by category about files that are passed over.
    """

    def __init__(
        self,
        samples: Mapping[str, list[Sample]],
        failed: Mapping[str, str] | None = None,
        notes: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__(samples)
        self.failed = dict(failed or {})
        self.notes = {name: list(lines) for name, lines in (notes or {}).items()}

    def filled(self, samples: Mapping[str, list[Sample]]) -> Listing:
        """The listing with other samples for its categories."""
        return Listing({name: samples[name] for name in self}, self.failed, self.notes)

    @property
    def reasons(self) -> list[str]:
        """The failures and notes, a line each."""
        return [f"category {name}: {reason}" for name, reason in sorted(self.failed.items())] + [
            f"category {name}: {line}" for name in sorted(self.notes) for line in self.notes[name]
        ]


def is_hidden(path: str) -> bool:
    """Whether a path is of files that nobody looks at: hidden ones, and those of a system."""
    return any(one.startswith(".") or one.lower() in _OF_SYSTEMS for one in path.split("/"))


def category_folders(root: str) -> list[str]:
    """Names of the folders below a data set's root, without hidden ones and those of a system.

    Raises:
        ConfigError: the root does not exist, or is empty.
    """
    found = storage.list_names(root)
    names = [name for name in found if not is_hidden(name)]
    if len(names) < len(found):
        log.info("folders_passed_over root=%s names=%s", root, sorted({*found} - {*names}))
    if not names and not storage.exists(root):
        raise ConfigError(f"data.root {root!r} is not there, or empty: check the path")
    return names


def chosen(names: Iterable[str], config: DataConfig) -> Listing:
    """The categories that `config.categories` selects, sorted, each without samples yet.

    One whose name cannot be part of a path is among the failures.

    Raises:
        ConfigError: a pattern occurs twice or fits none, or no category is left.
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
    found = Listing({})
    for name in there:
        if any(fnmatchcase(name, pattern) for pattern in config.categories):
            try:
                found[check_name("category", name)] = []
            except ConfigError as error:
                found.failed[name] = f"{error}; rename its folder"
    if not found:
        raise ConfigError(next(iter(found.failed.values())))
    return found


def image_files(root: str, category: str, *, has_folders: bool) -> tuple[dict[str, str], list[str]]:
    """Path and ETag of each image below a category's folder, and notes on the other files.

    Args:
        root: the data set's folder.
        category: name of the category's folder.
        has_folders: whether images are in folders of the category, and files beside these are not
            worth a note.

    Returns:
        The images, at any depth, sorted by path; a line on files that are passed over by their
        ending, and one on hidden ones.
    """
    base = storage.join(root, category)
    images: dict[str, str] = {}
    others, hidden = list[str](), list[str]()
    for file in storage.list_files(base):
        path = file.uri.removeprefix(f"{base}/")
        is_image = path.lower().endswith(SUFFIXES)
        if is_hidden(path):
            hidden += [path] * is_image
        elif is_image:
            images[path] = file.etag
        elif "/" in path or not has_folders:
            others.append(path)
    return images, [*_hidden_note(hidden), *_ending_note(others)]


def _hidden_note(paths: Sequence[str]) -> list[str]:
    if not paths:
        return []
    return [f"{counted(paths)} hidden, or of a system, and not used, such as {paths[0]}"]


def _ending_note(paths: Sequence[str]) -> list[str]:
    if not paths:
        return []
    endings = Counter(PurePosixPath(path).suffix.lower() or "no ending" for path in paths)
    each = ", ".join(f"{number} {ending}" for ending, number in sorted(endings.items()))
    return [
        f"{counted(paths)} not used, by ending ({each}), such as {paths[0]}: an image ends "
        f"in {', '.join(SUFFIXES)}; convert what is an image"
    ]


def counted(paths: Sequence[str], kind: str = "file") -> str:
    """The number of files, with its verb."""
    return f"1 {kind} is" if len(paths) == 1 else f"{len(paths)} {kind}s are"


def place_of(key: str) -> float:
    """The key's position in [0, 1) by its hash, the same on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
