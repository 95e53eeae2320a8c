"""The training loss: distances between teacher and student features, made one number.

Shape letters: B batch, C channels, h w a level's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mrkd.model.feature_pairs import FeaturePairs, cosine_distance, inside


def flat_distance(t_BCn: Tensor, s_BCn: Tensor, *, anchor: float = 0.0) -> Tensor:
    """One minus the cosine over all of an image's features at once: float32 `[B]`.

    Args:
        t_BCn: teacher features, their pixels in one axis or several.
        s_BCn: student features of the same shape.
        anchor: scale of the constant channel of `cosine_distance`.

    Source: the loss of RD4AD's code, which flattens C, h and w.
    """
    return cosine_distance(
        t_BCn.flatten(1)[..., None, None], s_BCn.flatten(1)[..., None, None], anchor=anchor
    )[:, 0, 0]


def distillation_loss(
    pairs: FeaturePairs,
    *,
    distance: Literal["pixel", "flat"] = "pixel",
    anchor: float = 0.0,
    hard_pixel_share: float = 0.0,
    roi: Sequence[Tensor] | None = None,
) -> Tensor:
    """The training loss, summed over levels: float32 scalar.

    Args:
        pairs: features of the levels in use.
        distance: `pixel` takes the mean of the per-pixel distances, `flat` one cosine an image.
        anchor: scale of the constant channel of `cosine_distance`.
        hard_pixel_share: adds, per level, the mean over that share of each image's worst pixels.
        roi: per level `[h, w]`, 0 where a pixel does not count in the loss; None: all count.

    Source: paper section 4.2, spec section 6. The L2 term is the optimiser's weight decay.
    """
    total = torch.zeros((), device=pairs.student[0].device)
    regions: Sequence[Tensor | None] = roi or [None] * len(pairs.teacher)
    for t_BChw, s_BChw, roi_hw in zip(pairs.teacher, pairs.student, regions, strict=True):
        if distance == "flat":
            t_BCn, s_BCn = inside(t_BChw, roi_hw), inside(s_BChw, roi_hw)
            total = total + flat_distance(t_BCn, s_BCn, anchor=anchor).mean()
            continue
        pixels = inside(cosine_distance(t_BChw, s_BChw, anchor=anchor), roi_hw)
        total = total + pixels.mean()
        if hard_pixel_share:
            num_hard = max(1, round(hard_pixel_share * pixels.shape[1]))
            total = total + pixels.topk(num_hard, dim=1).values.mean()
    return total
