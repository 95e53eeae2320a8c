"""Data sets that are folders of images: layouts `mvtec` and `folder`."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import PurePosixPath

from mrkd import storage
from mrkd.config import DataConfig
from mrkd.data.datasets.sample import GOOD, Part, Sample, category_folders, chosen, image_files
from mrkd.errors import ConfigError

_PARTS: dict[str, Part] = {"train": "train", "validation": "val", "val": "val", "test": "test"}
_MVTEC = "<category>/train/good, <category>/test/<defect>, <category>/ground_truth/<defect>"


def folder(config: DataConfig) -> dict[str, list[Sample]]:
    """`<category>/*.png`: good images, all for training."""
    root = storage.join(config.root)
    found = {}
    for name in chosen(category_folders(root), config):
        files = image_files(root, name)
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


def mvtec(config: DataConfig) -> dict[str, list[Sample]]:
    """MVTec AD's folders; a split file may move images between the parts and name groups.

    `ground_truth/<defect>/<stem>_mask.png`, or `<stem>.png`, belongs to `<part>/<defect>/<stem>.*`.
    An anomalous image may lack a mask, but a mask without its image is an error.
    """
    root = storage.join(config.root)
    names = category_folders(root)
    if {"train", "test"} & set(names):
        raise ConfigError(
            f"data.root {root!r} holds {', '.join(names)}: it looks like one category, give the "
            f"folder above it; layout mvtec is {_MVTEC}"
        )
    return {name: _category(root, name, config.split_csv) for name in chosen(names, config)}


def _category(root: str, category: str, split_csv: str) -> list[Sample]:
    files = image_files(root, category)
    base = storage.join(root, category)
    gt_masks: dict[tuple[str, str], str] = {}
    images: dict[str, Sample] = {}
    for path, etag in files.items():
        uri = storage.join(base, path)
        match PurePosixPath(path).parts:
            case ("ground_truth", defect, name):
                gt_masks[defect, PurePosixPath(name).stem.removesuffix("_mask")] = uri
            case (part, defect, _) if part in _PARTS:
                label = int(defect != GOOD)
                images[path] = Sample(uri, category, _PARTS[part], label, defect, etag=etag)
    if files and not images:
        raise ConfigError(
            f"category {category!r} in {root!r} holds {next(iter(files))!r} and no image where "
            f"layout mvtec has them: {_MVTEC}"
        )
    images = _with_gt_masks(images, gt_masks)
    beside = storage.join(base, "split.csv"), storage.join(root, "split.csv")
    uri = split_csv or next((uri for uri in beside if storage.exists(uri)), "")
    samples = _with_split(images, category, uri) if uri and images else list(images.values())
    for sample in samples:
        if sample.split == "train" and sample.gt_label:
            raise ConfigError(
                f"{sample.image_uri!r} is in part train and not in a folder {GOOD!r}: training "
                "takes good images alone; move it to test"
            )
    return samples


def _with_gt_masks(
    images: dict[str, Sample], gt_masks: dict[tuple[str, str], str]
) -> dict[str, Sample]:
    unused = dict(gt_masks)
    paired = {
        path: replace(s, gt_mask_uri=unused.pop((s.defect, PurePosixPath(path).stem), None))
        for path, s in images.items()
    }
    for (defect, stem), uri in unused.items():
        raise ConfigError(
            f"gt_mask {uri!r} has no image: expected test/{defect}/{stem}.png or .jpg"
        )
    return paired


def _with_split(images: dict[str, Sample], category: str, uri: str) -> list[Sample]:
    """The images with the part and the group that the split file gives each of them."""
    reader = csv.DictReader(io.StringIO(storage.read(uri).decode()))
    columns = list(reader.fieldnames or ())
    group = "group" if "group" in columns else "tile"
    if not {"path", group, "part"} <= set(columns):
        raise ConfigError(f"{uri!r} has the columns {columns}: expected path, group, part")
    rows: dict[str, tuple[Part, str]] = {}
    for row in reader:
        if row["part"] not in _PARTS:
            raise ConfigError(
                f"{uri!r} line {reader.line_num}: part {row['part']!r} is none of train, val, test"
            )
        # A file beside several categories may name the category too.
        rows[row["path"].removeprefix(f"{category}/")] = _PARTS[row["part"]], row[group]
    missing = [path for path in images if path not in rows]
    if missing:
        raise ConfigError(
            f"{uri!r} does not name {missing[0]!r} of {category!r} (and {len(missing) - 1} "
            "more images): give each a part"
        )
    return [
        replace(sample, split=rows[path][0], group=rows[path][1]) for path, sample in images.items()
    ]
