"""Readers that all pages share: records, tables, and the images that rows name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mrkd import storage
from mrkd.data import datasets, images
from mrkd.data.images import Geometry, Policy
from mrkd.errors import ArtefactError, ImageDecodeError, StorageError
from mrkd.reports.kit import pictures
from mrkd.reports.kit.values import Box, Row, ScoredImage
from mrkd.storage import schema

PICTURES_PER_CATEGORY = 12
PICTURES_IN_ALL = 240
"""With their maps at most 6 MB of a page."""


def record(folder_uri: str, *names: str, version: int, advice: str) -> dict[str, Any]:
    """The JSON record that a page begins with.

    Args:
        folder_uri: URI of its folder, or of the file itself.
        names: path of the file in the folder.
        version: the schema that this version of mrkd reads.
        advice: what to do about another schema.

    Raises:
        StorageError: it cannot be read.
        ArtefactError: it is of another schema.
    """
    uri = storage.join(folder_uri, *names)
    content: dict[str, Any] = storage.read_json(uri)
    if content.get("schema") != version:
        raise ArtefactError(
            f"{uri} has schema {content.get('schema')!r}, this version of mrkd reads {version}: "
            f"{advice}"
        )
    return content


def table(uri: str, columns: Sequence[str], optional: Sequence[str] = ()) -> pa.Table:
    """These columns of a Parquet file, and what there is of the optional ones.

    Raises:
        StorageError: it cannot be read.
        ArtefactError: it is damaged, or lacks one of them.
    """
    found = schema.from_parquet(storage.read(uri), name=uri)
    if missing := [name for name in columns if name not in found.column_names]:
        raise ArtefactError(
            f"{uri} has no column {', '.join(missing)}: another version of mrkd wrote it"
        )
    return found.select([*columns, *(name for name in optional if name in found.column_names)])


def parquet(folder_uri: str, name: str) -> pa.Table:
    """All of a run's `<name>.parquet`.

    Raises:
        StorageError: it cannot be read.
        ArtefactError: it is damaged.
    """
    uri = storage.join(folder_uri, f"{name}.parquet")
    return schema.from_parquet(storage.read(uri), name=uri)


Read = Callable[[str], bytes]
"""Reads the bytes of an image's file by its URI; a StorageError where it cannot."""


def scored_image(
    row: Row,
    *,
    image_size: int,
    resize: Policy,
    pixel_threshold: float = 0.0,
    read: Read = datasets.read_image,
) -> ScoredImage:
    """A scored row with its image and its map.

    Args:
        row: columns of `schema.SCORES`, and the ground truth where it is known.
        image_size: side of the model's input in pixels.
        resize: policy by which an image became that size.
        pixel_threshold: value of the map at which heat is full.
        read: source of the images' bytes.
    """
    original = (row["image_height"], row["image_width"])
    gt_mask = read_pixels(row.get("gt_mask_uri"), read)
    return ScoredImage(
        row,
        pixels=thumbnail(row["image_uri"], read),
        anomaly_map=schema.read_map(row),
        map_box=map_box(Geometry(original, (image_size, image_size), resize)),
        gt_mask=None if gt_mask is None else images.to_gt_mask(gt_mask),
        pixel_threshold=pixel_threshold,
    )


def leak_pairs(rows: Sequence[Row]) -> list[Row]:
    """Rows of `leaks.parquet` with the thumbnails `pixels` and `training_pixels`, or None."""
    uris = {"pixels": "image_uri", "training_pixels": "training_uri"}
    return [{**row, **{to: thumbnail(row[uri]) for to, uri in uris.items()}} for row in rows]


def thumbnail(uri: str, read: Read = datasets.read_image) -> NDArray[np.uint8] | None:
    """An image at a card's size: uint8 `[h, w, 3]`; None where it is gone or damaged by now."""
    rgb = read_pixels(uri, read)
    return None if rgb is None else pictures.thumbnail(rgb)


def map_box(geometry: Geometry) -> Box:
    """Position of the whole map over the original: past its edges where borders were added."""
    x, y, width, height = geometry.valid
    scale_y, scale_x = geometry.original[0] / height, geometry.original[1] / width
    return Box(-x * scale_x, -y * scale_y, geometry.size[1] * scale_x, geometry.size[0] * scale_y)


def read_pixels(uri: str | None, read: Read = datasets.read_image) -> NDArray[np.uint8] | None:
    """The image's pixels; None without a URI, or where the image is gone or damaged by now."""
    if not uri:
        return None
    try:
        return images.decode(read(uri))
    except (StorageError, ImageDecodeError):
        return None
