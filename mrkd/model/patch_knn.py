"""The nearest neighbour in a memory of good patches: a baseline for MRKD.

After PatchCore (Roth et al., CVPR 2022): locally averaged features, a 10 % coreset, the distance to
the nearest. Differs: all levels, standardised per channel; no reweighting of the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from mrkd import seeds
from mrkd.config import ModelConfig
from mrkd.model import anomaly_map
from mrkd.model.detector import Joined, TeacherModel
from mrkd.model.feature_cache import TeacherFeatures

CORESET_SHARE = 0.1
MAX_PATCHES = 200_000
"""Patches that the coreset is chosen from; of more, this many are drawn."""

_PROJECTED = 32  # dimensions in which it is chosen; PatchCore's code takes 128
_ROWS = 512  # patches compared with the memory at one time


class NearestNeighbour(TeacherModel):
    """A `detector.Detector` without a student.

    Patches are those of the middle level's grid: every level standardised per channel, averaged
    over 3x3 neighbours and brought to that grid, all levels side by side.

    Args:
        config: size, resize and smoothing of the map; its image score is the mean of the highest
            percent of the map.
        train: teacher features of good images.
        seed: seed of the projection and of the coreset's first patch.
    """

    memory: Tensor

    def __init__(self, config: ModelConfig, train: TeacherFeatures, *, seed: int) -> None:
        # No mean is taken off: this map's does worse with it (tests/bench/LOG.md).
        config = replace(config, image_score="top_share_mean", top_share=0.01, mean_weight=0.0)
        super().__init__(config, train.teacher, None)
        self.grid = train.sizes[len(train.sizes) // 2]
        self.set_feature_statistics(train.statistics())
        self.to(train.device)
        generator = torch.Generator().manual_seed(seeds.torch_seed(seed, "coreset"))
        num_patches = len(train) * self.grid[0] * self.grid[1]
        kept = min(1.0, MAX_PATCHES / num_patches)
        parts = []
        for levels in train.batches():
            patches = self._patches(levels).flatten(0, 2)
            if kept < 1:
                drawn = torch.rand(len(patches), generator=generator) < kept
                patches = patches[drawn.to(patches.device)]
            parts.append(patches)
        patches = torch.cat(parts)
        chosen = _coreset(patches, max(1, round(CORESET_SHARE * len(patches))), generator)
        self.register_buffer("memory", patches[chosen])
        self.eval()

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """float32 `[B, 3, H, W]`, normalised for the teacher, to distances `[B, 1, h, w]`."""
        with torch.autocast(images_B3HW.device.type, enabled=False):
            return self.from_features(self.teacher(images_B3HW))

    def from_features(self, levels: Sequence[Tensor]) -> Tensor:
        """Raw features to each patch's distance to the nearest of the memory: `[B, 1, h, w]`."""
        patches_BhwC = self._patches(levels)
        flat = patches_BhwC.flatten(0, 2)
        squares = self.memory.square().sum(1)
        # |p - m|^2 = |p|^2 - 2 p.m + |m|^2, the first of which is the same for all.
        nearest = torch.cat([(squares - 2 * p @ self.memory.T).amin(1) for p in flat.split(_ROWS)])
        distance = (nearest + flat.square().sum(1)).clamp_min(0).sqrt()
        return distance.view(len(patches_BhwC), 1, *self.grid)

    def maps(self, distances_B1hw: Tensor) -> Tensor:
        """The smoothed map at input size: float32 `[B, 1, H, W]`."""
        size = self.config.image_size
        sigma = self.config.smooth * size / 256
        return anomaly_map.anomaly_map([distances_B1hw[:, 0]], size=(size, size), sigma=sigma)

    def join(self, maps_BKHW: Tensor, distances_B1hw: Tensor | None = None) -> Joined:
        """The map itself, and its score."""
        score = anomaly_map.image_score(
            maps_BKHW, rule=self.config.image_score, top_share=self.config.top_share
        )
        return Joined(maps_BKHW[:, 0], score, score[:, None])

    def _patches(self, levels: Sequence[Tensor]) -> Tensor:
        """`[B, h, w, sum of C_l]` in float32."""
        parts = []
        for standard in self.normalise(levels):
            averaged = F.avg_pool2d(standard, 3, 1, 1, count_include_pad=False)
            if standard.shape[-1] > self.grid[-1]:
                parts.append(F.adaptive_avg_pool2d(averaged, self.grid))
            else:
                parts.append(F.interpolate(averaged, self.grid, mode="bilinear"))
        return torch.cat(parts, 1).permute(0, 2, 3, 1)


def _coreset(patches: Tensor, num_chosen: int, generator: torch.Generator) -> Tensor:
    """Greedy farthest points: each next one is the patch farthest from all chosen before."""
    projection = torch.randn(patches.shape[1], _PROJECTED, generator=generator)
    low = patches @ projection.to(patches.device) / _PROJECTED**0.5
    chosen = torch.empty(num_chosen, dtype=torch.long)
    chosen[0] = torch.randint(len(low), (1,), generator=generator)
    squares = low.square().sum(1)
    nearest = torch.full((len(low),), torch.inf, device=low.device)
    for n in range(1, num_chosen):
        last = low[chosen[n - 1]]
        distance = squares - 2 * (low @ last) + last.square().sum()
        torch.minimum(nearest, distance, out=nearest)
        chosen[n] = nearest.argmax()
    return chosen
