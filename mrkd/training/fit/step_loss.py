"""The loss of some training images at one step: flips, hidden pixels, the forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mrkd import seeds
from mrkd.config import FitConfig
from mrkd.model.feature_cache import TeacherFeatures
from mrkd.model.loss import distillation_loss
from mrkd.model.mrkd import MRKD
from mrkd.training.fit.batch_step import Rows
from mrkd.training.fit.masks import feature_masks


class TrainingLoss:
    """Mean loss of some training images at a step, as a scalar with its graph.

    Draws depend on seed, step and sample, not on the worker or batch that computes the images.

    Args:
        model: in training mode when this is called.
        train: features of the training images.
        config: share of hidden pixels, flips, and the seed.
        sample_ids: one name for each training image.
        total_steps: largest number of steps of the training, for `mask_schedule`.

    Attributes:
        precision: precision of the forward pass; weights and the loss itself stay float32.
    """

    def __init__(
        self,
        model: MRKD,
        train: TeacherFeatures,
        config: FitConfig,
        *,
        sample_ids: Sequence[str],
        total_steps: int,
    ) -> None:
        self.precision = torch.float32
        self._model, self._train, self._config = model, train, config
        self._sample_ids, self._total_steps = sample_ids, total_steps
        self._sizes = [train.sizes[n] for n in model.levels]

    def __call__(self, step: int, rows: Rows) -> Tensor:
        """The loss of the images at these rows of the training set."""
        levels = self._levels(step, rows)
        device = levels[0].device
        masks = self._masks(step, rows, device)
        bfloat16 = self.precision is torch.bfloat16
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16):
            pairs = self._model.pairs(levels, masks)
        return distillation_loss(
            pairs,
            distance=self._model.config.distance,
            anchor=self._model.config.anchor,
            hard_pixel_share=self._config.hard_pixel_share,
            roi=self._model.level_roi,
        )

    def _levels(self, step: int, rows: Rows) -> list[Tensor]:
        if self._config.augment == "none":
            return self._train.batch(rows)
        flipped = []
        for n in rows:
            across, along = seeds.stream(
                self._config.seed, "flips", step, self._sample_ids[n]
            ).random(2)
            pixels = self._train.shown(n)
            pixels = pixels[:, ::-1] if across < 0.5 else pixels
            flipped.append(pixels[::-1] if along < 0.5 else pixels)
        return self._train.compute(np.stack(flipped))

    def _masks(self, step: int, rows: Rows, device: torch.device) -> list[Tensor] | None:
        if not (self._model.config.fmm and self._config.mask_rate):
            return None
        done = step / max(1, self._total_steps - 1)
        share = {"constant": 1.0, "rise": done, "fall": 1 - done}[self._config.mask_schedule]
        masks = feature_masks(
            self._sizes,
            config=self._config,
            rate=self._config.mask_rate * share,
            step=step,
            sample_ids=[self._sample_ids[n] for n in rows],
        )
        return [m.to(device) for m in masks]
