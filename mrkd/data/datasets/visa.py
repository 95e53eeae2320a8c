"""VisA, layout `visa`: the folder that Amazon publishes as VisA_20220922.tar.

Every image is a row of `split_csv/1cls.csv`, its paths from the root:

- `<category>/Data/Images/{Normal,Anomaly}/<stem>.JPG`
- `<category>/Data/Masks/Anomaly/<stem>.png`, which holds the numbers of the kinds of defect

Of a mask with the numbers 1 and 3, half of the brightest pixel would lose the 1. Its URI is
therefore `<file>#above-0`, and what is read there is 255 wherever the file is not 0.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from mrkd import storage
from mrkd.config import DataConfig
from mrkd.data import images
from mrkd.data.datasets.sample import GOOD, Listing, Sample, chosen
from mrkd.data.tables import FirstLines, read_table
from mrkd.errors import ConfigError

_COLUMNS = ("object", "split", "label", "image", "mask")
_ABOVE_0 = "#above-0"


def visa(config: DataConfig) -> Listing:
    """Parts and labels as the one-class split says; all anomalies have one kind, `anomaly`."""
    root = storage.join(config.root)
    uri = storage.join(root, "split_csv", "1cls.csv")
    if not storage.exists(uri):
        raise ConfigError(
            f"data.root {root!r} holds no split_csv/1cls.csv: layout visa is the folder of "
            "VisA_20220922.tar, with split_csv/ beside the categories"
        )
    rows = _rows(root, uri)
    found = chosen(rows, config)
    return found.filled({name: _on_disk(root, name, rows[name], uri) for name in found})


def read_gt_numbers(uri: str) -> bytes | None:
    """A PNG file, 255 where a mask of numbers is not 0; None for the URI of anything else.

    Raises:
        StorageError: the mask cannot be read.
        ImageDecodeError: it is not an image.
    """
    if not uri.endswith(_ABOVE_0):
        return None
    numbers = images.decode(storage.read(uri.removesuffix(_ABOVE_0)))
    return cv2.imencode(".png", np.where(numbers.any(axis=2), 255, 0).astype(np.uint8))[1].tobytes()


def _rows(root: str, uri: str) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    seen = FirstLines(uri)
    for row in read_table(uri, _COLUMNS):
        match [row.values[column] for column in _COLUMNS]:
            case [name, ("train" | "test") as part, "normal", path, ""] if name and path:
                sample = Sample(storage.join(root, path), name, part, 0, GOOD)
            case [name, "test", "anomaly", path, gt_mask] if name and path:
                gt_mask_uri = storage.join(root, gt_mask) + _ABOVE_0 if gt_mask else None
                sample = Sample(storage.join(root, path), name, "test", 1, "anomaly", gt_mask_uri)
            case fields:
                raise ConfigError(
                    f"{row.where} holds {','.join(fields)[:200]!r}: expected "
                    "<category>,train|test,normal,<image>, or "
                    "<category>,test,anomaly,<image>,<mask>"
                )
        seen.add(path, row.line)
        found.setdefault(sample.category, []).append(sample)
    return found


def _on_disk(root: str, category: str, samples: list[Sample], split_uri: str) -> list[Sample]:
    """The samples sorted by image, each with its file's ETag."""
    etags = {file.uri: file.etag for file in storage.list_files(storage.join(root, category))}
    for sample in samples:
        for uri in (sample.image_uri, sample.gt_mask_uri):
            if uri is not None and uri.removesuffix(_ABOVE_0) not in etags:
                raise ConfigError(
                    f"{split_uri!r} names {uri.removesuffix(_ABOVE_0)!r} of {category!r}, which is "
                    "not there: unpack the category again, or name others in data.categories"
                )
    named = [replace(sample, etag=etags[sample.image_uri]) for sample in samples]
    return sorted(named, key=lambda sample: sample.image_uri)
