"""The pixels that feature mask generation hides in training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mrkd import seeds
from mrkd.config import FitConfig


def feature_masks(
    sizes: Sequence[tuple[int, ...]],
    *,
    config: FitConfig,
    rate: float,
    step: int,
    sample_ids: Sequence[str],
) -> list[Tensor]:
    """The pixels that each sample's features hide at one step.

    Args:
        sizes: `(h, w)` of each level in use.
        config: seed and `mask_cell`, the side of the squares that are hidden as one.
        rate: share of hidden pixels.
        step: optimiser step.
        sample_ids: names of the batch's samples.

    Returns:
        Per level float32 `[B, 1, h, w]`, 0 where hidden, else 1, or with `mask_rescale`
        1 / (1 - rate). A draw depends on (seed, level, step, sample) alone: not on rank, batch or
        order.

    Source: paper section 3.7, equation of the random mask. Differs: cells larger than a pixel.
    """
    masks = []
    for level, (h, w) in enumerate(sizes):
        cell = min(config.mask_cell, h, w)
        grid = (math.ceil(h / cell), math.ceil(w / cell))
        drawn = np.stack(
            [
                seeds.stream(config.seed, "feature_mask", level, step, name).random(
                    grid, dtype=np.float32
                )
                for name in sample_ids
            ]
        )
        kept = torch.from_numpy(drawn >= rate).float()[:, None]
        if cell > 1:
            kept = kept.repeat_interleave(cell, 2).repeat_interleave(cell, 3)[..., :h, :w]
        masks.append(kept / (1 - rate) if config.mask_rescale else kept)
    return masks
