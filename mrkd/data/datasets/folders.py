"""Data sets that are folders of images: layouts `mvtec` and `folder`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from mrkd import storage
from mrkd.config import DataConfig
from mrkd.data.datasets.sample import (
    GOOD,
    Listing,
    Part,
    Sample,
    category_folders,
    chosen,
    counted,
    image_files,
)
from mrkd.data.tables import FirstLines, read_table
from mrkd.errors import ConfigError

_PARTS: dict[str, Part] = {"train": "train", "validation": "val", "val": "val", "test": "test"}
_MEANT = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("test", "testing", "tests", "testset"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "vali"), "val"),
    **dict.fromkeys(("groundtruth", "groundtruths"), "ground_truth"),
}
"""Folders of the layout by the letters of names that are meant so."""
_FILLING = {"image", "images", "part", "parts", "sample", "samples", "all"}
_GOOD_NAMES = {
    *("good", "goods", "ok", "okay", "io", "gut", "pass", "passed", "fine", "normal", "nominal"),
    *("nodefect", "nodefects", "defectfree", "nondefective", "undamaged", "intact", "healthy"),
    *("flawless", "perfect", "noanomaly", "nonanomalous", "negative", "clean"),
}
"""Letters of folder names that mean good, in lower case."""
_MVTEC = "<category>/train/good, <category>/test/<defect>, <category>/ground_truth/<defect>"


def folder(config: DataConfig) -> Listing:
    """`<category>/*.png`: good images, all for training."""
    root = storage.join(config.root)
    found = chosen(category_folders(root), config)
    for name in found:
        files, found.notes[name] = image_files(root, name, has_folders=False)
        nested = next((path for path in files if "/" in path), None)
        if nested:
            # Taken as good, an mvtec category's test/<defect> would be trained on unnoticed.
            raise ConfigError(
                f"category {name!r} in {root!r} holds {nested!r}: layout folder has the good "
                "images in the category's folder itself; for folders of parts use layout mvtec"
            )
        found[name] = [
            Sample(storage.join(root, name, path), name, "train", 0, GOOD, etag=etag)
            for path, etag in files.items()
        ]
    return found


def mvtec(config: DataConfig) -> Listing:
    """MVTec AD's folders; a split file may move images between the parts and name groups.

    `ground_truth/<defect>/<stem>_mask.png`, or `<stem>.png`, belongs to `<part>/<defect>/<stem>.*`,
    and so at any depth below. An anomalous image may lack a mask; a mask without its image is
    passed over with a note.
    """
    root = storage.join(config.root)
    names = category_folders(root)
    if {"train", "test"} & {name.lower() for name in names}:
        raise ConfigError(
            f"data.root {root!r} holds {', '.join(names)}: it looks like one category, give the "
            f"folder above it; layout mvtec is {_MVTEC}"
        )
    found = chosen(names, config)
    for name in found:
        found[name], found.notes[name] = _category(root, name, config.split_csv, names)
    return found


def _category(
    root: str, category: str, split_csv: str, categories: Sequence[str]
) -> tuple[list[Sample], list[str]]:
    """The samples of a category, and notes on what of its folder is not used."""
    files, notes = image_files(root, category, has_folders=True)
    base = storage.join(root, category)
    gt_masks: dict[tuple[str, ...], str] = {}
    images: dict[str, Sample] = {}
    others: list[str] = []
    for path, etag in files.items():
        uri = storage.join(base, path)
        match PurePosixPath(path).parts:
            case ("ground_truth", *folders, name) if folders:
                key = (*folders, PurePosixPath(name).stem.removesuffix("_mask"))
                if gt_masks.setdefault(key, uri) != uri:
                    notes.append(
                        f"{uri!r} is a second mask of an image and not used beside "
                        f"{gt_masks[key]!r}: keep one"
                    )
            case (part, defect, *_, _) if part in _PARTS:
                label = int(defect != GOOD)
                images[path] = Sample(uri, category, _PARTS[part], label, defect, etag=etag)
            case _:
                others.append(path)
    if files and not images:
        raise ConfigError(
            f"category {category!r} in {root!r} holds {next(iter(files))!r} and no image where "
            f"layout mvtec has them: {_MVTEC}"
        )
    _check_folders(base, images, others)
    if others:
        notes.append(
            f"{counted(others)} outside the folders of layout mvtec and not used, such as "
            f"{others[0]}"
        )
    images, unused = _with_gt_masks(images, gt_masks)
    notes += unused
    beside = storage.join(base, "split.csv"), storage.join(root, "split.csv")
    uri = split_csv or next((uri for uri in beside if storage.exists(uri)), "")
    samples = list(images.values())
    if uri and images:
        of_others = () if uri == beside[0] else {*categories} - {category}
        samples = _with_split(images, category, uri, of_others)
    for sample in samples:
        if sample.split == "train" and sample.gt_label:
            raise ConfigError(
                f"{sample.image_uri!r} is in part train and not in a folder {GOOD!r}: training "
                "takes good images alone; move it to test"
            )
    return samples, notes


def _check_folders(base: str, images: Mapping[str, Sample], others: Sequence[str]) -> None:
    """Refuses what would be lost, or taken for what it is not.

    Raises:
        ConfigError: a folder's name is only nearly that of the layout, or means good and is not
            `good`; or an image or mask is not in the folder where it belongs.
    """
    for sample in images.values():
        if sample.gt_label and _means_good(sample.defect):
            folder = sample.image_uri.removeprefix(f"{base}/").split("/")[0]
            raise ConfigError(
                f"{base}/{folder} holds a folder {sample.defect!r}, whose name means good: its "
                f"images would count as defective; rename it to {GOOD!r}, or, if it is a kind of "
                "defect, to what that is"
            )
    stems = {path.rpartition(".")[0] for path in images}
    for path in images:
        stem = path.rpartition(".")[0]
        if stem.endswith("_mask") and stem.removesuffix("_mask") in stems:
            raise ConfigError(
                f"{base}/{path} is a mask beside its image, and would count as an image: move it "
                "to ground_truth/<defect>"
            )
    for path in others:
        top, *below = path.split("/")
        if top in _PARTS and len(below) == 1:
            raise ConfigError(
                f"{base}/{path} is in {top!r} itself: move good images to {top}/{GOOD}"
                + ("" if top == "train" else f", and defective ones to {top}/<defect>")
            )
        meant = _MEANT.get("".join(_words(top))) if below else None
        if meant not in (None, top):
            raise ConfigError(
                f"{base} holds a folder {top!r}: layout mvtec has {meant!r}; rename it"
            )


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]


def _means_good(defect: str) -> bool:
    return "".join(word for word in _words(defect) if word not in _FILLING) in _GOOD_NAMES


def _with_gt_masks(
    images: dict[str, Sample], gt_masks: dict[tuple[str, ...], str]
) -> tuple[dict[str, Sample], list[str]]:
    unused = dict(gt_masks)
    paired = {}
    for path, sample in images.items():
        _, *folders, name = PurePosixPath(path).parts
        gt_mask_uri = unused.pop((*folders, PurePosixPath(name).stem), None)
        paired[path] = replace(sample, gt_mask_uri=gt_mask_uri)
    if not unused:
        return paired, []
    uris = list(unused.values())
    expected = "/".join(("test", *next(iter(unused))))
    return paired, [
        f"{counted(uris, 'mask')} without an image and not used, such as {uris[0]!r}: expected "
        f"{expected}.png or .jpg"
    ]


def _with_split(
    images: dict[str, Sample], category: str, uri: str, of_others: Iterable[str]
) -> list[Sample]:
    """The images with the part and the group that the split file gives each of them.

    Args:
        images: images of the category by path.
        category: its name.
        uri: the split file.
        of_others: names of the other categories that the file may name images of.
    """
    others = tuple(f"{name}/" for name in of_others)
    # macOS takes accents apart in names of files, an editor's table holds them in one.
    by_text = {unicodedata.normalize("NFC", path): path for path in images}
    rows: dict[str, tuple[Part, str]] = {}
    seen = FirstLines(uri)
    for row in read_table(uri, ("path", "group", "part"), ("path", "tile", "part")):
        given, group, part = row.values.values()
        if part not in _PARTS:
            raise ConfigError(f"{row.where}: part {part!r} is none of train, val, test")
        # A file beside several categories may name the category too.
        own = given.replace("\\", "/").removeprefix("./")
        path = own.removeprefix(f"{category}/")
        path = by_text.get(unicodedata.normalize("NFC", path), path)
        if path not in images and others and own.startswith(others):
            continue
        if path not in images and (own.startswith(f"{category}/") or not others):
            raise ConfigError(
                f"{row.where} names {given!r}, which is not an image of {category!r}: correct the "
                "path, or remove the line"
            )
        seen.add(path, row.line)
        rows[path] = _PARTS[part], group
    missing = [path for path in images if path not in rows]
    if missing:
        raise ConfigError(
            f"{uri!r} does not name {missing[0]!r} of {category!r} (and {len(missing) - 1} "
            "more images): give each a part"
        )
    return [
        replace(sample, split=rows[path][0], group=rows[path][1]) for path, sample in images.items()
    ]
