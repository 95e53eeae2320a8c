"""Pixels to the model's square, and rectangles of that square back to the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Policy = Literal["stretch", "letterbox"]

_BORDER = 127
_LEAST_GREY = 32
"""Least value of a mask's grey; below are numbers of classes, or noise."""
_MOST_CLASSES = 32
"""Number of values up to which a mask is one of classes, and not of soft edges."""


@dataclass(frozen=True)
class Geometry:
    """The position of an image of `original` (H0, W0) in a square of `size` (H, W).

    `stretch` fills the whole, each axis by its own scale; `letterbox` keeps the shape and puts
    the image in the middle, between grey borders.
    """

    original: tuple[int, int]
    size: tuple[int, int]
    policy: Policy

    @property
    def valid(self) -> tuple[int, int, int, int]:
        """Where the image itself lies: x, y, width and height, in pixels of `size`."""
        height, width = self.size
        if self.policy == "stretch":
            return 0, 0, width, height
        scale = min(height / self.original[0], width / self.original[1])
        h = min(max(round(self.original[0] * scale), 1), height)
        w = min(max(round(self.original[1] * scale), 1), width)
        return (width - w) // 2, (height - h) // 2, w, h

    @property
    def pixel_area(self) -> float:
        """Pixels of the original behind one pixel of the image in `size`."""
        _, _, w, h = self.valid
        return self.original[0] * self.original[1] / (h * w)

    def to_original(self, x: int, y: int, w: int, h: int) -> tuple[int, int, int, int]:
        """The rectangle of the original that holds this one of `size`.

        Args:
            x: left edge.
            y: upper edge.
            w: width, at least 1.
            h: height, at least 1.

        Returns:
            x, y, width and height: whole original pixels, within the original, at least 1 each.
        """
        left, top, valid_w, valid_h = self.valid
        x0, x1 = _span(x - left, w, valid_w, self.original[1])
        y0, y1 = _span(y - top, h, valid_h, self.original[0])
        return x0, y0, x1 - x0, y1 - y0


def _span(start: int, length: int, size: int, original: int) -> tuple[int, int]:
    """First pixel and the one after the last of what `length` of `size` pixels cover."""
    first = min(max(start * original // size, 0), original - 1)
    end = -(-(start + length) * original // size)  # rounded up, in whole numbers
    return first, min(max(end, first + 1), original)


def resize(rgb: NDArray[np.uint8], size: int, policy: Policy) -> tuple[NDArray[np.uint8], Geometry]:
    """The image at the model's size, and how it lies there.

    An axis that shrinks takes the mean over what it merges, one that grows is interpolated.

    Args:
        rgb: uint8 `[H0, W0, 3]`.
        size: side of the square, in pixels.
        policy: `stretch` or `letterbox`, see `Geometry`.

    Returns:
        uint8 `[size, size, 3]`, and its geometry.
    """
    geometry = Geometry((rgb.shape[0], rgb.shape[1]), (size, size), policy)
    x, y, w, h = geometry.valid
    scaled = _scale(rgb, h, w)
    if (h, w) == (size, size):
        return scaled, geometry
    square = np.full((size, size, 3), _BORDER, np.uint8)
    square[y : y + h, x : x + w] = scaled
    return square, geometry


def _scale(rgb: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    shrinks_y, shrinks_x = height <= rgb.shape[0], width <= rgb.shape[1]
    if shrinks_y != shrinks_x:
        # OpenCV takes one rule for both axes: first the one that shrinks, then the other.
        middle = (rgb.shape[1], height) if shrinks_y else (width, rgb.shape[0])
        rgb = np.asarray(cv2.resize(rgb, middle, interpolation=cv2.INTER_AREA), np.uint8)
    both = shrinks_y and shrinks_x
    rule = cv2.INTER_AREA if both else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=rule), np.uint8)


def to_mask(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """A mask as stored, uint8 `[H, W, 3]`, to bool `[H, W]`, True where it is marked.

    Marked is what is brighter than half of the brightest pixel, so that masks of 0 and 1 are read
    like those of 0 and 255, and soft edges are cut in the middle.
    """
    grey = rgb.max(axis=2)
    return np.asarray(grey > grey.max() / 2)


def to_gt_mask(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """A ground-truth mask as stored, uint8 `[H, W, 3]`, to bool `[H, W]`, True where defective.

    A mask without a value of 32 or more holds numbers of classes: defective is what is not 0.
    Any other is cut as by `to_mask`; where it has few values, at half of the darkest one that fills
    a square of 3 x 3, so that no class drawn in its own grey is lost beside a brighter one.
    """
    grey = rgb.max(axis=2)
    highest = int(grey.max())
    if highest < _LEAST_GREY:
        return np.asarray(grey > 0)
    values = np.unique(grey)
    if len(values) <= _MOST_CLASSES:
        square = np.ones((3, 3), np.uint8)
        filled = grey[cv2.erode(grey, square) == cv2.dilate(grey, square)]
        highest = int(filled[filled >= _LEAST_GREY].min(initial=highest))
    return np.asarray(grey > highest / 2)


def resize_mask(mask: NDArray[np.bool_], geometry: Geometry) -> NDArray[np.bool_]:
    """A ground-truth mask by the geometry of its image, nearest pixel; False on borders.

    Args:
        mask: bool `[H0, W0]`, at the image's original size.
        geometry: geometry of the image.

    Returns:
        bool `[H, W]`.

    Raises:
        ValueError: the mask is not of the image's size.
    """
    if mask.shape != geometry.original:
        raise ValueError(f"the mask is {mask.shape}, its image {geometry.original}")
    x, y, w, h = geometry.valid
    out = np.zeros(geometry.size, bool)
    rows, columns = _nearest(mask.shape[0], h), _nearest(mask.shape[1], w)
    out[y : y + h, x : x + w] = mask[np.ix_(rows, columns)]
    return out


def _nearest(original: int, size: int) -> NDArray[np.intp]:
    """For each of `size` pixels the original one under its middle."""
    return (2 * np.arange(size) + 1) * original // (2 * size)
