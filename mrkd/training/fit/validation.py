"""Validation loss and calibration of a model under training, by held-out good images.

Shape letters: B batch, h w a level's size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mrkd.model import anomaly_map
from mrkd.model.ensemble import Ensemble
from mrkd.model.feature_cache import TeacherFeatures
from mrkd.model.feature_pairs import inside
from mrkd.model.loss import distillation_loss
from mrkd.model.mrkd import MRKD

# Added to a covariance's diagonal: images may be all alike.
_FLOOR = 1e-6


@torch.inference_mode()
def validation_loss(model: MRKD, features: TeacherFeatures) -> float:
    """The plain loss, nothing hidden, as a mean over images; leaves the model in eval mode."""
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
    """Sets mean and standard deviation of each level's distances to those over held-out pixels."""
    per_level: list[list[Tensor]] = [[] for _ in model.levels]
    regions: Sequence[Tensor | None] = model.level_roi or [None] * len(per_level)
    for levels in features.batches():
        maps_Bhw = anomaly_map.level_maps(model.pairs(levels), anchor=model.config.anchor)
        for found, map_Bhw, roi_hw in zip(per_level, maps_Bhw, regions, strict=True):
            found.append(inside(map_Bhw, roi_hw).flatten())
    for n, found in enumerate(per_level):
        std, mean = torch.std_mean(torch.cat(found))
        model.get_buffer("level_mean")[n] = mean
        model.get_buffer("level_std")[n] = std.clamp_min(1e-6)


@torch.inference_mode()
def fit_gaussian(model: MRKD, features: TeacherFeatures) -> None:
    """Sets mean and whitening of the deepest level's mean features, by the training images.

    Source: the covariance is shrunk after Ledoit & Wolf 2004, J. Multivariate Analysis 88.
    """
    region = None if model.level_roi is None else model.level_roi[-1]
    deepest = model.levels[-1]
    x_NC = torch.cat(
        [
            inside(model.normalise(levels)[deepest], region).mean(2).double()
            for levels in features.batches()
        ]
    )
    mean = x_NC.mean(0)
    away = x_NC - mean
    count, width = away.shape
    covariance = away.T @ away / count
    scale = covariance.diagonal().mean()
    sphere = scale * torch.eye(width, dtype=torch.float64, device=away.device)
    spread = (covariance - sphere).square().sum()
    noise = (away.square().sum(1).square().mean() - covariance.square().sum()) / count
    share = (noise / spread).clamp(0, 1) if spread > 0 else torch.ones_like(spread)
    floor = _FLOOR * torch.eye(width, dtype=torch.float64, device=away.device)
    shrunk = share * sphere + (1 - share) * covariance + floor
    whitening = torch.linalg.inv(torch.linalg.cholesky(shrunk)).T
    model.get_buffer("gaussian_mean").copy_(mean)
    model.get_buffer("gaussian_whitening").copy_(whitening)


@torch.inference_mode()
def calibrate_score(model: MRKD, features: TeacherFeatures) -> None:
    """Sets mean and standard deviation of both parts of the score, once levels are calibrated."""
    found = []
    for levels in features.batches():
        pairs = model.pairs(levels)
        of_map = model.map_score(model.maps(pairs))
        found.append(torch.stack([of_map, model.gaussian_distance(pairs)]))
    std, mean = torch.std_mean(torch.cat(found, 1), dim=1)
    model.get_buffer("score_mean").copy_(mean)
    model.get_buffer("score_std").copy_(std.clamp_min(1e-6))


@torch.inference_mode()
def calibrate_ensemble(model: Ensemble, features: TeacherFeatures) -> None:
    """Sets all scales of an ensemble with fitted cells by images that it does not know."""
    if model.student is not None:
        calibrate_levels(model.student, features)
    pixels: list[list[Tensor]] = []
    raw = []
    for levels in features.batches():
        maps_BKHW = model.maps(model.from_features(levels))
        pixels.append([inside(maps_BKHW[:, n], model.pixel_roi).flatten() for n in model.shown])
        raw.append(model.raw_scores(maps_BKHW))
    std, mean = zip(
        *(torch.std_mean(torch.cat(own)) for own in zip(*pixels, strict=True)), strict=True
    )
    model.set_map_scales(torch.stack(mean), torch.stack(std))
    model.set_score_scales(torch.cat(raw))
