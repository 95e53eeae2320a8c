"""A large image as overlapping squares, and where the maps of these lie on a map of it all.

A network sees one square at a time, so that a scratch of some pixels stays one. Neighbours share a
strip, over which their maps take turns: each has a weight that rises from its inner edge, and the
weights at any pixel add up to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mrkd.data.images.geometry import Geometry, Policy, resize


@dataclass(frozen=True, eq=False)
class TileSpan:
    """What a tile covers along one axis.

    Attributes:
        original: first pixel of the image and the one after the last.
        canvas: first pixel of the canvas and the one after the last.
        weights: weights of the tile's pixels on the canvas, float32; over all tiles they add up
            to 1.
    """

    original: tuple[int, int]
    canvas: tuple[int, int]
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class Tiling:
    """How an image is cut, and the canvas: its own map, at the scale of the tiles' maps.

    The first tile begins at the upper left corner, each next one `side - overlap` pixels on; the
    last one of a row or column is pushed back to the border. An image that is smaller than a tile
    along an axis has one tile there, that ends where the image does.

    Args:
        original: (H0, W0) of the image.
        side: side of a tile, in original pixels.
        overlap: overlap of neighbours, in original pixels, at most half of `side`.
        size: side that each tile is resized to, in pixels.
        policy: `stretch` or `letterbox`, for a tile that the image's border cuts off.
    """

    original: tuple[int, int]
    side: int
    overlap: int
    size: int
    policy: Policy

    @property
    def canvas(self) -> tuple[int, int]:
        """(H, W) of the whole map: the original times `size / side`."""
        height, width = (_scaled(n, self.side, self.size) for n in self.original)
        return max(height, 1), max(width, 1)

    @property
    def geometry(self) -> Geometry:
        """How the image lies on the canvas: it fills it."""
        return Geometry(self.original, self.canvas, "stretch")

    @property
    def axes(self) -> tuple[tuple[TileSpan, ...], tuple[TileSpan, ...]]:
        """The tiles' rows and columns."""
        height, width = (_spans(n, self.side, self.overlap, self.size) for n in self.original)
        return height, width

    def __len__(self) -> int:
        rows, columns = self.axes
        return len(rows) * len(columns)

    def tile(self, number: int) -> tuple[TileSpan, TileSpan]:
        """Rows and columns of a tile; they are counted in reading order."""
        rows, columns = self.axes
        return rows[number // len(columns)], columns[number % len(columns)]

    def tile_geometry(self, number: int) -> Geometry:
        """How a tile's part of the image lies in the square that the model sees."""
        height, width = (span.original[1] - span.original[0] for span in self.tile(number))
        return Geometry((height, width), (self.size, self.size), self.policy)

    def cut(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The tiles of an image, uint8 `[H0, W0, 3]`: uint8 `[tiles, size, size, 3]`."""
        tiles = np.empty((len(self), self.size, self.size, 3), np.uint8)
        for number, tile in enumerate(tiles):
            (top, bottom), (left, right) = (span.original for span in self.tile(number))
            tile[:], _ = resize(rgb[top:bottom, left:right], self.size, self.policy)
        return tiles


def _scaled(place: int, side: int, size: int) -> int:
    """A position on the canvas, rounded; `side` pixels further on it is exactly `size` more."""
    return (2 * place * size + side) // (2 * side)


@lru_cache(maxsize=256)
def _spans(length: int, side: int, overlap: int, size: int) -> tuple[TileSpan, ...]:
    """The tiles along an axis of `length` pixels."""
    last = max(length - side, 0)
    starts = [*range(0, last, side - overlap), last]
    bounds = [(start, min(start + side, length)) for start in starts]
    places = [(_scaled(a, side, size), max(_scaled(b, side, size), 1)) for a, b in bounds]
    ramp = overlap * size / side
    raw = [
        np.minimum(
            np.ones(until - at) if at == 0 else _rise(until - at, ramp),
            np.ones(until - at) if until == places[-1][1] else _rise(until - at, ramp)[::-1],
        )
        for at, until in places
    ]
    total = np.zeros(places[-1][1])
    for (at, until), weights in zip(places, raw, strict=True):
        total[at:until] += weights
    return tuple(
        TileSpan(bound, place, (weights / total[place[0] : place[1]]).astype(np.float32))
        for bound, place, weights in zip(bounds, places, raw, strict=True)
    )


def _rise(length: int, ramp: float) -> NDArray[np.float64]:
    """From near 0 to 1 over `ramp` pixels, then 1; of two that meet head to tail the sum is 1."""
    return np.asarray(np.minimum((np.arange(length) + 0.5) / max(ramp, 0.5), 1.0), np.float64)
