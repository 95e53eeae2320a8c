"""Feature pairs to anomaly map to image score.

With a region of interest, every value that is a mean over its neighbours is one over those inside:
nothing bleeds in from outside, and no border is dimmed by the zeros that stand there.

Shape letters: B batch, C channels, h w a level's size, H W the map's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mrkd.features import FeaturePairs, cosine_distance, inside

# Where no neighbour is inside, 0 over 0 is to be 0.
_TINY = torch.finfo(torch.float32).tiny


def level_maps(pairs: FeaturePairs, *, anchor: float = 0.0) -> list[Tensor]:
    """The distance at every pixel of every level, shallow to deep: float32 `[B, h_l, w_l]` each."""
    return [
        cosine_distance(t_BChw, s_BChw, anchor=anchor)
        for t_BChw, s_BChw in zip(pairs.teacher, pairs.student, strict=True)
    ]


def anomaly_map(
    levels: Sequence[Tensor],
    *,
    size: tuple[int, int],
    combine: Literal["add", "multiply", "calibrated"] = "add",
    mean: Tensor | None = None,
    std: Tensor | None = None,
    roi: Sequence[Tensor] | None = None,
) -> Tensor:
    """The levels' distances, brought to one size and joined.

    Args:
        levels: `level_maps`' result, `[B, h_l, w_l]` each.
        size: `(H, W)` of the map in pixels.
        combine: `add`, `multiply`, or `calibrated`: each level less its mean over its standard
            deviation on held-out good images, then added.
        mean: float32 `[levels]`, needed by `calibrated`.
        std: float32 `[levels]`, needed by `calibrated`.
        roi: per level `[h_l, w_l]`, 1 inside the region of interest, else 0; None: all is inside.

    Returns:
        float32 `[B, 1, H, W]`, higher is more anomalous; for `add` in `[0, 2 * num_levels]` up to
        rounding; not smoothed. With `roi`, what lies outside at input size is of no meaning.

    Raises:
        ValueError: `calibrated` without mean and std.

    Source: paper section 3.8. Differs: bilinear with `align_corners=False` (RD4AD True).
    """
    if combine == "calibrated":
        if mean is None or std is None:
            raise ValueError("combine='calibrated' needs each level's mean and std")
        levels = [(m - mean[n]) / std[n] for n, m in enumerate(levels)]
    regions: Sequence[Tensor | None] = roi or [None] * len(levels)
    resized = [_resize(m, r, size) for m, r in zip(levels, regions, strict=True)]
    joined = resized[0]
    for m in resized[1:]:
        joined = joined * m if combine == "multiply" else joined + m
    return joined


def _resize(map_Bhw: Tensor, roi_hw: Tensor | None, size: tuple[int, int]) -> Tensor:
    """A level's map at the size of the whole: `[B, 1, H, W]`, each pixel from the cells inside."""

    def up(x_B1hw: Tensor) -> Tensor:
        return F.interpolate(x_B1hw, size=size, mode="bilinear", align_corners=False)

    if roi_hw is None:
        return up(map_Bhw[:, None])
    return up((map_Bhw * roi_hw)[:, None]) / up(roi_hw[None, None]).clamp_min(_TINY)


def smooth(map_B1HW: Tensor, sigma: float, *, roi: Tensor | None = None) -> Tensor:
    """Gaussian blur, separable, radius `round(4 * sigma)`, reflected at the borders.

    Args:
        map_B1HW: float32 `[B, 1, H, W]`.
        sigma: in pixels of the map; 0 blurs nothing.
        roi: `[H, W]`, 1 inside the region of interest, else 0; None: all is inside.

    Returns:
        float32 `[B, 1, H, W]`; with `roi` the mean over the neighbours inside, and 0 outside.

    Source: RD4AD's evaluation (sigma 4 at 256 px), which calls `scipy.ndimage.gaussian_filter`.
    """
    if roi is None:
        return _blur(map_B1HW, sigma)
    blurred = _blur(map_B1HW * roi, sigma) / _blur(roi[None, None], sigma).clamp_min(_TINY)
    return blurred * roi


def _blur(map_B1HW: Tensor, sigma: float) -> Tensor:
    radius = min(round(4 * sigma), min(map_B1HW.shape[-2:]) - 1)
    if radius < 1:
        return map_B1HW
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32, device=map_B1HW.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(map_B1HW, (radius, radius, radius, radius), mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, 1, -1))
    return F.conv2d(rows, kernel.view(1, 1, -1, 1))


def image_score(
    map_B1HW: Tensor,
    *,
    rule: Literal["max", "top_share_mean"] = "max",
    top_share: float = 0.01,
    mean_weight: float = 0.0,
    roi: Tensor | None = None,
) -> Tensor:
    """One number an image: float32 `[B]`, higher is more anomalous.

    Args:
        map_B1HW: the smoothed map, `[B, 1, H, W]`.
        rule: the map's maximum, or the mean over the `top_share` of its highest pixels.
        top_share: in (0, 1].
        mean_weight: that many times the map's mean is taken off, so that a part that is hard to
            rebuild as a whole does not pass for a defective one.
        roi: `[H, W]`, 0 where a pixel does not count, in maximum, share and mean; None: all do.

    Source: paper section 3.8 (`max`); the rest was measured, spec section 6.
    """
    pixels = inside(map_B1HW, roi).flatten(1)
    if rule == "max":
        score = pixels.amax(1)
    else:
        score = pixels.topk(max(1, round(top_share * pixels.shape[1])), dim=1).values.mean(1)
    return score - mean_weight * pixels.mean(1) if mean_weight else score
