"""The maps of an image's tiles as one map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mrkd.data.images import Tiling


class Canvas:
    """The whole maps of an image that is scored in tiles, built on the tiles' device.

    Attributes:
        maps_KHW: float32 at the canvas' size; complete when all tiles were added.
    """

    def __init__(self, tiling: Tiling, num_maps: int, place: torch.device) -> None:
        self._tiling = tiling
        self.maps_KHW = torch.zeros(num_maps, *tiling.canvas, device=place)

    def add(self, number: int, tile_KSS: Tensor) -> None:
        """Adds a tile's share: its maps at the model's size, float32 `[K, S, S]`."""
        rows, columns = self._tiling.tile(number)
        (top, bottom), (left, right) = rows.canvas, columns.canvas
        x, y, width, height = self._tiling.tile_geometry(number).valid
        part_Khw = tile_KSS[:, y : y + height, x : x + width]
        if (height, width) != (bottom - top, right - left):
            # The image's border cut the tile off, and the model saw the rest of it enlarged.
            shape = (bottom - top, right - left)
            part_Khw = F.interpolate(part_Khw[None], shape, mode="area")[0]
        weights_h, weights_w = (
            torch.from_numpy(span.weights).to(part_Khw.device) for span in (rows, columns)
        )
        self.maps_KHW[:, top:bottom, left:right] += part_Khw * weights_h[:, None] * weights_w
