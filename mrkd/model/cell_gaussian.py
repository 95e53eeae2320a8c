"""Gaussians for the cells of a grid: how far features lie, cell by cell, from good images'.

Good parts lie alike in their images, so that every cell of the teacher's features has a mean and
a covariance of its own. The distance of a new image's cell is Mahalanobis' under them. Nothing is
trained: sums over the good images are all that a fit takes.

Source: PaDiM (Defard et al., ICPR 2020). Differs: channels are projected at random, not drawn; the
covariance is shrunk towards the mean one of all cells, so that four images are enough; three grids
instead of one, of which `fine` makes the map and the other two the score.

Shape letters: N, B images; P cells; C channels of the levels joined; D dimensions kept; h w a grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrkd import seeds

_FLOOR = 0.01
"""Added to every variance, in units of a standardised channel's: images may be all alike."""
_TINY = 1e-6


@dataclass(frozen=True)
class Grid:
    """How one set of cells sees the teacher's levels.

    Args:
        name: name of the grid.
        stride: input pixels on a side of a cell.
        most: cells on a side at most; at larger inputs a cell covers more.
        deep: whether the deepest levels are joined, or those of strides 8 and 16.
        width: dimensions that the joined channels are projected to.
        weight: images that the mean covariance of all cells counts as.
    """

    name: str
    stride: int
    most: int
    deep: bool
    width: int
    weight: float

    def side(self, image_size: int) -> int:
        """Cells on a side, for a model's input size in pixels."""
        return max(1, min(image_size // self.stride, self.most))

    def levels(self, strides: Sequence[int]) -> tuple[int, ...]:
        """Which of the teacher's levels are joined, by their strides."""
        wanted = {max(strides)} if self.deep else {8, 16} & set(strides)
        chosen = [n for n, stride in enumerate(strides) if stride in wanted]
        return tuple(chosen) or tuple(range(len(strides)))


# Widths and weights were measured on 17 real sets with EfficientNet-Lite0 (tests/bench/LOG.md).
GRIDS = (
    Grid("middle", stride=16, most=16, deep=False, width=100, weight=16.0),
    Grid("deep", stride=32, most=8, deep=True, width=200, weight=64.0),
    Grid("fine", stride=8, most=32, deep=False, width=64, weight=16.0),
)
SCORED = ("middle", "deep")
"""Grids whose maps make image scores; `fine` makes the map."""


class CellGaussian(nn.Module):
    """The Gaussians of one grid.

    Args:
        grid: the grid.
        channels: C_l of the teacher's levels, shallow to deep.
        strides: input pixels per feature pixel of the teacher's levels.
        image_size: side of the input in pixels.
        roi: float32 `[H, W]` of 0 and 1, the region of interest at input size; None: everywhere.

    Attributes:
        cells_roi: float32 `[h, w]`, 1 where any of a cell's area is inside; None: everywhere.
    """

    count: Tensor
    mean: Tensor
    whitening: Tensor
    projection: Tensor
    cells_roi: Tensor | None

    def __init__(
        self,
        grid: Grid,
        channels: Sequence[int],
        strides: Sequence[int],
        image_size: int,
        roi: Tensor | None,
    ) -> None:
        super().__init__()
        self.grid, self.side = grid, grid.side(image_size)
        self.levels = grid.levels(strides)
        joined = sum(channels[n] for n in self.levels)
        width, cells = min(grid.width, joined), self.side**2
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("projection", torch.zeros(joined, width))
        self.register_buffer("mean", torch.zeros(cells, width))
        # The inverse of the covariance's Cholesky factor, lower triangular.
        self.register_buffer("whitening", torch.eye(width).repeat(cells, 1, 1))
        region = None
        if roi is not None:
            region = F.adaptive_max_pool2d(roi[None, None], self.side)[0, 0]
        self.register_buffer("cells_roi", region, persistent=False)

    def draw_projection(self, seed: int) -> None:
        """Draws orthonormal directions; the same seed gives the same ones."""
        generator = torch.Generator().manual_seed(seeds.torch_seed(seed, "cells", self.grid.name))
        drawn = torch.randn(self.projection.shape, generator=generator, dtype=torch.float64)
        self.projection.copy_(torch.linalg.qr(drawn).Q)

    def embed(self, levels: Sequence[Tensor]) -> Tensor:
        """Standardised features of all levels to what the cells see: float32 `[B, P, D]`."""
        parts = []
        for n in self.levels:
            level = levels[n]
            if level.shape[-1] > self.side:
                level = F.adaptive_avg_pool2d(level, self.side)
            elif level.shape[-1] < self.side:
                size = (self.side, self.side)
                level = F.interpolate(level, size, mode="bilinear", align_corners=False)
            parts.append(level)
        return torch.cat(parts, 1).flatten(2).transpose(1, 2) @ self.projection

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Standardised features of all levels to distances: float32 `[B, h, w]`, 0 outside."""
        return self.distances(self.deviations(levels))

    def deviations(self, levels: Sequence[Tensor]) -> Tensor:
        """Whitened deviations from the cells' means: float32 `[P, B, D]`."""
        away_PBD = (self.embed(levels) - self.mean).transpose(0, 1)
        return away_PBD @ self.whitening.transpose(1, 2)

    def distances(self, away_PBD: Tensor, *, known_PBD: Tensor | None = None) -> Tensor:
        """Lengths of whitened deviations, as a map `[B, h, w]`.

        Args:
            away_PBD: `deviations` of the images.
            known_PBD: `deviations` of one image of the fit, `[P, 1, D]`: lengths are then under
                the Gaussians of the other images, by a rank-one update (Sherman and Morrison);
                the shared covariance stays as it is.
        """
        squares = away_PBD.square().sum(2)
        if known_PBD is not None:
            count, weight = float(self.count), self.grid.weight
            away_PBD = away_PBD + known_PBD / (count - 1)
            share = count / ((count - 1) * (count + weight))
            across = (away_PBD * known_PBD).sum(2).square()
            left = 1 - share * known_PBD.square().sum(2)
            squares = away_PBD.square().sum(2) + share * across / left.clamp_min(_TINY)
            squares = squares * ((count - 1 + weight) / (count + weight))
        found = squares.sqrt().T.view(-1, self.side, self.side)
        return found if self.cells_roi is None else found * self.cells_roi

    def fit(self, sums: Sums) -> None:
        """Sets mean and covariance to those of good images, one at least."""
        count, weight = sums.count, self.grid.weight
        mean = sums.total / count
        covariance = sums.outer / count - mean[:, :, None] * mean[:, None, :]
        inside = slice(None) if self.cells_roi is None else self.cells_roi.flatten() > 0
        shared = covariance[inside].mean(0)
        covariance = (count * covariance + weight * shared) / (count + weight)
        covariance.diagonal(dim1=1, dim2=2).add_(_FLOOR)
        factor = torch.linalg.cholesky(covariance)
        unit = torch.eye(len(shared), dtype=factor.dtype, device=factor.device).expand_as(factor)
        inverse = torch.linalg.solve_triangular(factor, unit, upper=False)
        self.count.fill_(count)
        self.mean.copy_(mean)
        # float16, as it is stored: what is calibrated is what will score.
        self.whitening.copy_(inverse.half())


@dataclass(frozen=True)
class Sums:
    """Sums over images of what a grid's cells see, which add and subtract.

    Args:
        count: images.
        total: float64 `[P, D]`.
        outer: float64 `[P, D, D]`, of products.
    """

    count: int
    total: Tensor
    outer: Tensor

    @classmethod
    def over(cls, cells: CellGaussian, batches: Iterable[Sequence[Tensor]]) -> Self:
        """The sums of batches of standardised features of all levels."""
        total = torch.zeros_like(cells.mean, dtype=torch.float64)
        outer = torch.zeros_like(cells.whitening, dtype=torch.float64)
        count = 0
        for levels in batches:
            seen_PBD = cells.embed(levels).transpose(0, 1).double()
            count += seen_PBD.shape[1]
            total += seen_PBD.sum(1)
            outer += seen_PBD.transpose(1, 2) @ seen_PBD
        return cls(count, total, outer)

    def plus(self, other: Sums, sign: int = 1) -> Sums:
        """The sums over the images of both; with `sign` -1 over this one's without the other's."""
        return Sums(
            self.count + sign * other.count,
            self.total + sign * other.total,
            self.outer + sign * other.outer,
        )


def packed(whitening_PDD: Tensor) -> Tensor:
    """The lower triangles: float16 `[P, D (D + 1) / 2]`, which hold all of a whitening."""
    rows, columns = torch.tril_indices(*whitening_PDD.shape[1:])
    return whitening_PDD[:, rows, columns].half().contiguous()


def unpacked(triangles: Tensor, width: int) -> Tensor:
    """What `packed` gave: float32 `[P, D, D]`.

    Raises:
        ValueError: the triangles are of another width.
    """
    if triangles.ndim != 2 or triangles.shape[1] != width * (width + 1) // 2:
        raise ValueError(f"triangles are {tuple(triangles.shape)}, expected of width {width}")
    whitening = torch.zeros(len(triangles), width, width)
    rows, columns = torch.tril_indices(width, width)
    whitening[:, rows, columns] = triangles.float()
    return whitening
