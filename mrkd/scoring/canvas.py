"""The maps of a picture's tiles as one map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mrkd.images import Tiling


class Canvas:
    """The whole map of a picture that is scored in tiles, built where these maps lie.

    Attributes:
        map_HW: float32 at the canvas' size; complete when all tiles were added.
    """

    def __init__(self, tiling: Tiling, place: torch.device) -> None:
        self._tiling = tiling
        self.map_HW = torch.zeros(tiling.canvas, device=place)

    def add(self, number: int, tile_SS: Tensor) -> None:
        """Adds a tile's share.

        Args:
            number: of the tile.
            tile_SS: its map at the model's size, float32 `[S, S]`.
        """
        rows, columns = self._tiling.tile(number)
        (top, bottom), (left, right) = rows.canvas, columns.canvas
        x, y, width, height = self._tiling.tile_geometry(number).valid
        part_hw = tile_SS[y : y + height, x : x + width]
        if (height, width) != (bottom - top, right - left):
            # The picture's border cut the tile off, and the model saw what was left enlarged.
            shape = (bottom - top, right - left)
            part_hw = F.interpolate(part_hw[None, None], shape, mode="area")[0, 0]
        weights_h, weights_w = (
            torch.from_numpy(span.weights).to(part_hw.device) for span in (rows, columns)
        )
        self.map_HW[top:bottom, left:right] += part_hw * weights_h[:, None] * weights_w
