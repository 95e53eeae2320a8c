"""Feature pairs to anomaly map to image score.

With a region of interest, every value that is a mean over its neighbours is one over those inside:
nothing bleeds in from outside, and no border is dimmed by the zeros outside.

Shape letters: B batch, C channels, h w a level's size, H W the map's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mrkd.model.feature_pairs import FeaturePairs, cosine_distance, inside

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
    sigma: float = 0.0,
    pixel_roi: Tensor | None = None,
) -> Tensor:
    """The levels' distances, brought to one size, joined and smoothed.

    Resizing and blurring are linear on each axis: where the levels are added, both are one matrix
    on either side of a level (0.2 instead of 6.2 ms an image, EfficientNet-Lite0 at 256 px).

    Args:
        levels: `level_maps`' result, `[B, h_l, w_l]` each.
        size: `(H, W)` of the map in pixels.
        combine: `add`, `multiply`, or `calibrated`: each level less its mean over its standard
            deviation on held-out good images, then added.
        mean: float32 `[levels]`, needed by `calibrated`.
        std: float32 `[levels]`, needed by `calibrated`.
        roi: per level `[h_l, w_l]`, 1 inside the region of interest, else 0; None: all is inside.
        sigma: standard deviation of the Gaussian blur, in pixels of the map; 0: no blur.
        pixel_roi: the region at input size; None with `roi`: the map is not smoothed, and values
            outside have no meaning.

    Returns:
        float32 `[B, 1, H, W]`, higher is more anomalous; for `add` in `[0, 2 * num_levels]` up to
        rounding.

    Raises:
        ValueError: `calibrated` without mean and std.

    Source: paper section 3.8. Differs: bilinear with `align_corners=False` (RD4AD True).
    """
    if combine == "calibrated":
        if mean is None or std is None:
            raise ValueError("combine='calibrated' needs each level's mean and std")
        levels = [(m - mean[n]) / std[n] for n, m in enumerate(levels)]
    regions: Sequence[Tensor | None] = roi or [None] * len(levels)
    at_once = roi is None and combine != "multiply"
    resized = [
        _resized(m, r, size, sigma if at_once else 0.0)
        for m, r in zip(levels, regions, strict=True)
    ]
    joined = resized[0]
    for m in resized[1:]:
        joined = joined * m if combine == "multiply" else joined + m
    if at_once or (roi is not None and pixel_roi is None):
        return joined[:, None]
    return smooth(joined[:, None], sigma, roi=pixel_roi)


def _resized(map_Bhw: Tensor, roi_hw: Tensor | None, size: tuple[int, int], sigma: float) -> Tensor:
    """A level's map at the size of the whole: `[B, H, W]`, each pixel from the cells inside."""
    if roi_hw is None:
        return _apply(map_Bhw, size, sigma)
    inside_HW = _apply(roi_hw[None], size, sigma).clamp_min(_TINY)
    return _apply(map_Bhw * roi_hw, size, sigma) / inside_HW


def _apply(map_Bhw: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Bilinear resizing (`align_corners=False`), then the blur: `[B, H, W]`."""
    rows, columns = (
        _operator(before, after, sigma, map_Bhw.device)
        for before, after in zip(map_Bhw.shape[-2:], size, strict=True)
    )
    return rows @ map_Bhw @ columns.T


@lru_cache(maxsize=64)
def _operator(before: int, after: int, sigma: float, place: torch.device) -> Tensor:
    """The matrix that resizes one axis from `before` to `after` pixels and blurs it, float32."""
    with torch.inference_mode(False):
        cells = torch.eye(before, dtype=torch.float64)[None]
        matrix = F.interpolate(cells, size=after, mode="linear", align_corners=False)[0].T
        radius = min(round(4 * sigma), after - 1)
        if radius >= 1:
            offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
            kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
            padded = F.pad(torch.eye(after, dtype=torch.float64)[None], (radius, radius), "reflect")
            blur = F.conv1d(padded.transpose(0, 1), (kernel / kernel.sum())[None, None])[:, 0].T
            matrix = blur @ matrix
        return matrix.float().contiguous().to(place)


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
    if sigma <= 0:
        return map_B1HW if roi is None else map_B1HW * roi
    size = (map_B1HW.shape[-2], map_B1HW.shape[-1])
    smoothed = _resized(map_B1HW[:, 0], roi, size, sigma)[:, None]
    return smoothed if roi is None else smoothed * roi


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
