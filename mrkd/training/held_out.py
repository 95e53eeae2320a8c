"""What held-out good images say of a model under training.

Shape letters: B batch, h w a level's size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mrkd import maps
from mrkd.feature_cache import TeacherFeatures
from mrkd.features import inside
from mrkd.loss import distillation_loss
from mrkd.model import MRKD


@torch.inference_mode()
def validation_loss(model: MRKD, features: TeacherFeatures) -> float:
    """The plain loss, nothing hidden, each image weighing the same; leaves the model in eval mode.

    Args:
        model: whose loss it is.
        features: of the held-out images.
    """
    model.eval()
    total = 0.0
    for levels in features.batches():
        loss = distillation_loss(
            model.pairs(levels), anchor=model.config.anchor, roi=model.level_roi
        )
        total += loss.item() * len(levels[0])
    return total / len(features)


@torch.inference_mode()
def calibrate_levels(model: MRKD, features: TeacherFeatures) -> None:
    """Gives the model mean and standard deviation of each level's distances over their pixels.

    Args:
        model: in eval mode.
        features: of the held-out images.
    """
    per_level: list[list[Tensor]] = [[] for _ in model.levels]
    regions: Sequence[Tensor | None] = model.level_roi or [None] * len(per_level)
    for levels in features.batches():
        maps_Bhw = maps.level_maps(model.pairs(levels), anchor=model.config.anchor)
        for found, map_Bhw, roi_hw in zip(per_level, maps_Bhw, regions, strict=True):
            found.append(inside(map_Bhw, roi_hw).flatten())
    for n, found in enumerate(per_level):
        std, mean = torch.std_mean(torch.cat(found))
        model.get_buffer("level_mean")[n] = mean
        model.get_buffer("level_std")[n] = std.clamp_min(1e-6)
