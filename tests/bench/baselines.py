"""What a user would try before MRKD, for comparison only; none of it is part of the product.

Plain reverse distillation is MRKD with its own parts off. The nearest neighbour follows PatchCore
(Roth et al., CVPR 2022): locally averaged features, a 10 % coreset, the distance to the nearest.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mrkd import maps, seeds
from mrkd.feature_cache import TeacherFeatures

PLAIN_RD = {"model.fmm": False, "model.scconv": False, "model.simam": False}
"""Config values that turn MRKD into reverse distillation: same normalisation, loss and steps."""

CORESET_SHARE = 0.1
PROJECTED = 32
"""Dimensions in which the coreset is chosen, as in PatchCore's code (there 128)."""


class NearestNeighbour:
    """A memory of good patches; a patch's distance to the nearest of them is its anomaly.

    Patches are those of the middle level's grid: every level standardised per channel, averaged
    over 3x3 neighbours and brought to that grid, all levels side by side.

    Args:
        train: teacher features of good images.
        seed: of the projection and of the coreset's first patch.
    """

    def __init__(self, train: TeacherFeatures, *, seed: int) -> None:
        self.statistics = train.statistics()
        height, width = train.levels[len(train.levels) // 2].shape[-2:]
        self.grid = (height, width)
        patches = torch.cat([self._patches(levels).flatten(0, 2) for levels in train.batches()])
        self.bank = patches[_coreset(patches, round(CORESET_SHARE * len(patches)), seed)]

    def _patches(self, levels: list[Tensor]) -> Tensor:
        """`[B, h, w, sum of C_l]` in float32."""
        parts = []
        for level, (mean, std) in zip(levels, self.statistics, strict=True):
            standard = (level - mean.view(1, -1, 1, 1).float()) / std.view(1, -1, 1, 1).float()
            averaged = F.avg_pool2d(standard, 3, 1, 1, count_include_pad=False)
            parts.append(
                F.adaptive_avg_pool2d(averaged, self.grid)
                if _finer(level, self.grid)
                else F.interpolate(averaged, self.grid, mode="bilinear")
            )
        return torch.cat(parts, 1).permute(0, 2, 3, 1)

    def maps(self, features: TeacherFeatures, size: int) -> Iterator[np.ndarray]:
        """The smoothed anomaly map of each image, float32 `[size, size]`."""
        squares = self.bank.square().sum(1)
        for levels in features.batches():
            patches = self._patches(levels)
            flat = patches.flatten(0, 2)
            # The nearest by |p|^2 - 2 p.b + |b|^2; the rows are split so that one product fits.
            nearest = torch.cat(
                [(squares - 2 * part @ self.bank.T).amin(1) for part in flat.split(512)]
            )
            distance = (nearest + flat.square().sum(1)).clamp_min(0).sqrt()
            small = distance.view(len(patches), 1, *self.grid)
            large = F.interpolate(small, (size, size), mode="bilinear", align_corners=False)
            yield from maps.smooth(large, 4.0 * size / 256)[:, 0].numpy()


def _finer(level: Tensor, grid: tuple[int, int]) -> bool:
    return level.shape[-1] > grid[-1]


def _coreset(patches: Tensor, num_chosen: int, seed: int) -> Tensor:
    """Greedy farthest points: each next one is the patch farthest from all chosen before."""
    generator = torch.Generator().manual_seed(seeds.torch_seed(seed, "coreset"))
    projection = torch.randn(patches.shape[1], PROJECTED, generator=generator)
    low = patches @ projection / PROJECTED**0.5
    chosen = torch.empty(num_chosen, dtype=torch.long)
    chosen[0] = torch.randint(len(low), (1,), generator=generator)
    squares = low.square().sum(1)
    nearest = torch.full((len(low),), torch.inf)
    for n in range(1, num_chosen):
        last = low[chosen[n - 1]]
        distance = squares - 2 * (low @ last) + last.square().sum()
        torch.minimum(nearest, distance, out=nearest)
        chosen[n] = nearest.argmax()
    return chosen
