"""Training of one category in plain torch: features once, then steps on the student alone.

Shape letters: B batch, C channels, h w a level's size.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrkd import device, maps, seeds
from mrkd.config import FitConfig
from mrkd.feature_cache import TeacherFeatures
from mrkd.loss import distillation_loss
from mrkd.model import MRKD

Report = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class FitResult:
    """What a training did.

    Args:
        history: one row an epoch: epoch, step, loss, validation_loss, learning_rate, seconds.
        best_epoch: the epoch whose weights the model holds.
        steps: optimiser steps taken.
        seconds: of the whole fit; with the teacher's pass, unless the features were there.
        teacher_seconds: of the teacher's pass over training and validation images.
        images_per_s: training images through the student, per second of its epochs.
        placement: device, precision and the reason for both.
        digest: sha256 over the trained weights.
    """

    history: list[dict[str, float]]
    best_epoch: int
    steps: int
    seconds: float
    teacher_seconds: float
    images_per_s: float
    placement: device.Placement
    digest: str


def fit(
    model: MRKD,
    train: TeacherFeatures,
    validation: TeacherFeatures,
    config: FitConfig,
    *,
    sample_ids: Sequence[str],
    report: Report | None = None,
) -> FitResult:
    """Trains bottleneck and student in place; the model ends in eval mode with the best weights.

    Args:
        model: fresh from `model.build`, on the device of its teacher.
        train: good images.
        validation: held-out good images, for early stopping and the levels' calibration.
        config: steps, rates, seed.
        sample_ids: one name for each training image; the masks drawn for it hang on the name.
        report: called with each epoch's row of the history.

    Raises:
        ValueError: fewer than two training images, no validation image, or names that do not
            match the images.

    Source: paper section 4.2, spec sections 5 and 6.
    """
    if len(train) < 2 or len(validation) < 1 or len(sample_ids) != len(train):
        raise ValueError(
            f"{len(train)} training and {len(validation)} validation images, "
            f"{len(sample_ids)} names: needs at least 2 and 1, and a name for each"
        )
    return _Fit(model, train, validation, config, sample_ids).run(report)


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
        sample_ids: of the batch.

    Returns:
        Per level float32 `[B, 1, h, w]`, 0 where hidden, else 1, or with `mask_rescale`
        1 / (1 - rate). A draw hangs on (seed, level, step, sample) and on nothing else: not on
        rank, batch or order.

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


def digest(state: Mapping[str, Tensor]) -> str:
    """Sha256 over names, shapes and bytes of a state, in the order of its names."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


class _Fit:
    """One call of `fit`: what its steps share."""

    def __init__(
        self,
        model: MRKD,
        train: TeacherFeatures,
        validation: TeacherFeatures,
        config: FitConfig,
        sample_ids: Sequence[str],
    ) -> None:
        self.started = time.perf_counter()
        self.model, self.config, self.sample_ids = model, config, sample_ids
        self.train, self.validation = train, validation
        if model.config.feature_norm == "standardise":
            model.set_feature_statistics(train.statistics())
        self.sizes = [train.levels[n].shape[-2:] for n in model.levels]
        self.batch_size = min(config.batch_size, len(train))
        self.steps_per_epoch = len(train) // self.batch_size
        limit = config.max_epochs * self.steps_per_epoch
        self.total_steps = min(config.max_steps or limit, limit)
        # Channels last and the fused optimiser: 0.42 to 0.37 s a step of one core (batch 8, 256 px,
        # efficientnet_lite0), same weights to rounding.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        trained = [p for p in model.parameters() if p.requires_grad]
        # 0.5, 0.999: RD4AD's main.py. Coupled weight decay (Adam, not AdamW): the paper's sum.
        self.optimiser = torch.optim.Adam(
            trained,
            lr=config.learning_rate,
            betas=(0.5, 0.999),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.placement = self._place()

    def run(self, report: Report | None) -> FitResult:
        history: list[dict[str, float]] = []
        best_loss, best_epoch, best_state = math.inf, 0, _copy(self.model)
        step, student_seconds, num_images = 0, 0.0, 0
        while step < self.total_steps:
            epoch, began = len(history), time.perf_counter()
            losses = []
            for rows in self._epoch(epoch)[: self.total_steps - step]:
                losses.append(self._step(step, rows))
                step += 1
            student_seconds += time.perf_counter() - began
            num_images += len(losses) * self.batch_size
            row = {
                "epoch": epoch,
                "step": step,
                "loss": float(np.mean(losses)),
                "validation_loss": self._validation_loss(),
                "learning_rate": self._rate(step - 1),
                "seconds": time.perf_counter() - began,
            }
            history.append(row)
            if report:
                report(row)
            if row["validation_loss"] < best_loss:
                best_loss, best_epoch = row["validation_loss"], epoch
                best_state = _copy(self.model)
            elif epoch - best_epoch >= self.config.patience:
                break
        self.model.load_trained_state(best_state)
        self.model.eval()
        self._calibrate_levels()
        return FitResult(
            history=history,
            best_epoch=best_epoch,
            steps=step,
            seconds=time.perf_counter() - self.started,
            teacher_seconds=self.train.seconds + self.validation.seconds,
            images_per_s=num_images / student_seconds,
            placement=self.placement,
            digest=digest(self.model.trained_state()),
        )

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        order = seeds.stream(self.config.seed, "order", epoch).permutation(len(self.train))
        # A short last batch would give the batch norms other statistics; it is left to the next
        # epoch's order.
        return np.split(order[: self.steps_per_epoch * self.batch_size], self.steps_per_epoch)

    def _step(self, step: int, rows: np.ndarray) -> float:
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate(step)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._loss(step, rows)
        loss.backward()
        self.optimiser.step()
        return loss.item()

    def _loss(self, step: int, rows: np.ndarray) -> Tensor:
        levels = self._levels(step, rows)
        masks = None
        if self.model.config.fmm and self.config.mask_rate:
            masks = [
                m.to(levels[0].device)
                for m in feature_masks(
                    self.sizes,
                    config=self.config,
                    rate=self._mask_rate(step),
                    step=step,
                    sample_ids=[self.sample_ids[n] for n in rows],
                )
            ]
        with self._autocast():
            pairs = self.model.pairs(levels, masks)
        return distillation_loss(
            pairs,
            distance=self.model.config.distance,
            anchor=self.model.config.anchor,
            hard_pixel_share=self.config.hard_pixel_share,
        )

    def _levels(self, step: int, rows: np.ndarray) -> list[Tensor]:
        if self.config.augment == "none":
            return self.train.batch(rows)
        flipped = []
        for n in rows:
            across, along = seeds.stream(
                self.config.seed, "flips", step, self.sample_ids[n]
            ).random(2)
            pixels = self.train.pixels[n]
            pixels = pixels[:, ::-1] if across < 0.5 else pixels
            flipped.append(pixels[::-1] if along < 0.5 else pixels)
        return self.train.compute(np.stack(flipped))

    def _mask_rate(self, step: int) -> float:
        done = step / max(1, self.total_steps - 1)
        share = {"constant": 1.0, "rise": done, "fall": 1 - done}[self.config.mask_schedule]
        return self.config.mask_rate * share

    def _rate(self, step: int) -> float:
        warm, total = self.config.warmup_steps, self.total_steps
        if step < warm:
            return self.config.learning_rate * (step + 1) / warm
        if self.config.schedule == "constant":
            return self.config.learning_rate
        done = (step - warm) / max(1, total - warm)
        return self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def _autocast(self) -> torch.autocast:
        placement = self.placement
        return torch.autocast(
            placement.device.type,
            dtype=torch.bfloat16,
            enabled=placement.precision is torch.bfloat16,
        )

    @torch.inference_mode()
    def _validation_loss(self) -> float:
        """The plain loss on held-out good images, nothing hidden, each image weighing the same."""
        self.model.eval()
        total = 0.0
        for levels in self.validation.batches():
            loss = distillation_loss(self.model.pairs(levels), anchor=self.model.config.anchor)
            total += loss.item() * len(levels[0])
        return total / len(self.validation)

    @torch.inference_mode()
    def _calibrate_levels(self) -> None:
        """Mean and standard deviation of each level's distances over held-out good pixels."""
        per_level: list[list[Tensor]] = [[] for _ in self.model.levels]
        for levels in self.validation.batches():
            pairs = self.model.pairs(levels)
            for found, m in zip(
                per_level, maps.level_maps(pairs, anchor=self.model.config.anchor), strict=True
            ):
                found.append(m.flatten())
        for n, found in enumerate(per_level):
            std, mean = torch.std_mean(torch.cat(found))
            self.model.get_buffer("level_mean")[n] = mean
            self.model.get_buffer("level_std")[n] = std.clamp_min(1e-6)

    def _place(self) -> device.Placement:
        """Device of the model; precision as asked, or by timing a step in each."""
        return device.choose(self.config.device, self.config.precision, measure=self._time_step)

    def _time_step(self, precision: torch.dtype) -> float:
        """Seconds of one forward and backward pass; leaves weights and statistics as they were.

        Of two images: where a precision is emulated, a whole batch of it would take as long as
        many steps of the training.
        """
        self.placement = device.Placement(next(self.model.parameters()).device, precision, "timing")
        before = _copy(self.model)
        self.model.train()
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            self._loss(0, np.arange(2)).backward()
            if self.placement.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        self.model.zero_grad(set_to_none=True)
        self.model.load_trained_state(before)
        return min(seconds)


def _copy(model: MRKD) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.trained_state().items()}
