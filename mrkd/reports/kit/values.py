"""An image as the pages show it: its scored row, its pixels and its map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = Mapping[str, Any]
"""A stored row by column name, or a stored record."""


@dataclass(frozen=True)
class Box:
    """A rectangle in original pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class ScoredImage:
    """One scored image as a card shows it.

    Args:
        row: columns of `schema.SCORES`, or of another table of scored images; of labels, p-value
            and regions those that are stored.
        pixels: uint8 `[h, w, 3]` RGB thumbnail; None where the image can no longer be read.
        anomaly_map: float32 `[h, w]` as stored; None where none is.
        map_box: position of the map over the original; larger than it where borders were added.
        gt_mask: bool `[h, w]` over the whole original, at any size; None where none is known.
        pixel_threshold: value of the map at which heat is full.
    """

    row: Row
    pixels: NDArray[np.uint8] | None = None
    anomaly_map: NDArray[np.float32] | None = None
    map_box: Box | None = None
    gt_mask: NDArray[np.bool_] | None = None
    pixel_threshold: float = 0.0

    @property
    def uri(self) -> str:
        """URI of the image, as listed."""
        return str(self.row["image_uri"])

    @property
    def name(self) -> str:
        """Last part of its URI."""
        return PurePosixPath(self.uri).name
