"""Training of one category in plain torch: features once, then steps on the student alone.

Shape letters: B batch, C channels, h w a level's size.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrkd import device, maps, seeds
from mrkd.config import FitConfig
from mrkd.feature_cache import TeacherFeatures
from mrkd.features import inside
from mrkd.loss import distillation_loss
from mrkd.model import MRKD
from mrkd.parallel import Group
from mrkd.training.batches import Batches, num_micro_batches
from mrkd.training.masks import feature_masks
from mrkd.training.state import Checkpoint, digest, moments_of, put_moments

log = logging.getLogger(__name__)

Report = Callable[[Mapping[str, Any]], None]
Save = Callable[[Checkpoint], None]


@dataclass(frozen=True)
class FitResult:
    """What a training did.

    Args:
        history: one row an epoch: epoch, step, loss, validation_loss, learning_rate; the same for
            equal trainings.
        best_epoch: the epoch whose weights the model holds.
        steps: optimiser steps taken.
        seconds: of this call; with the teacher's pass, unless the features were there.
        teacher_seconds: of the teacher's pass over training and validation images.
        images_per_s: training images through the student, per second of this call's epochs.
        placement: device, precision and the reason for both.
        digest: sha256 over the trained weights.
        num_micro_batches: that a batch was computed in, at the end.
        warnings: what a person should know of, one line each.
    """

    history: list[dict[str, float]]
    best_epoch: int
    steps: int
    seconds: float
    teacher_seconds: float
    images_per_s: float
    placement: device.Placement
    digest: str
    num_micro_batches: int = 1
    warnings: list[str] = field(default_factory=list)


def fit(
    model: MRKD,
    train: TeacherFeatures,
    validation: TeacherFeatures,
    config: FitConfig,
    *,
    sample_ids: Sequence[str],
    report: Report | None = None,
    group: Group | None = None,
    resume: Checkpoint | None = None,
    save: Save | None = None,
    checkpoint_s: float = 0.0,
) -> FitResult:
    """Trains bottleneck and student in place; the model ends in eval mode with the best weights.

    On a CPU in float32 it ends with the same bits however often it was ended and went on.

    Args:
        model: fresh from `model.build`, on the device of its teacher.
        train: good images.
        validation: held-out good images, for early stopping and the levels' calibration.
        config: steps, rates, seed.
        sample_ids: one name for each training image; the masks drawn for it hang on the name.
        report: called with each epoch's row of the history and its seconds, on every worker.
        group: the workers that share each batch, every one with the same arguments; None: this one
            alone.
        resume: where an earlier call was; its epochs are not reported again.
        save: called with a checkpoint at the end of an epoch, by the group's first worker.
        checkpoint_s: seconds that lie between two checkpoints at least.

    Raises:
        CategoryError: memory runs out even with two images at a time.
        ValueError: fewer than two training images, no validation image, names that do not match
            the images, or features of another region of interest than the model's.

    Source: paper section 4.2, spec sections 5 and 6.
    """
    if len(train) < 2 or len(validation) < 1 or len(sample_ids) != len(train):
        raise ValueError(
            f"{len(train)} training and {len(validation)} validation images, "
            f"{len(sample_ids)} names: needs at least 2 and 1, and a name for each"
        )
    if train.roi is not model.pixel_roi or validation.roi is not model.pixel_roi:
        raise ValueError("the features are not of the model's region of interest")
    one = _Fit(model, train, validation, config, sample_ids, group or Group(), resume)
    return one.run(report, save, checkpoint_s)


class _Fit:
    """One call of `fit`: what its steps share."""

    def __init__(
        self,
        model: MRKD,
        train: TeacherFeatures,
        validation: TeacherFeatures,
        config: FitConfig,
        sample_ids: Sequence[str],
        group: Group,
        resume: Checkpoint | None,
    ) -> None:
        self.started = time.perf_counter()
        self.model, self.config, self.sample_ids = model, config, sample_ids
        self.train, self.validation, self.group = train, validation, group
        if model.config.feature_norm == "standardise":
            model.set_feature_statistics(train.statistics(roi=model.all_level_roi))
        self.sizes = [train.levels[n].shape[-2:] for n in model.levels]
        self.batch_size = min(config.batch_size, len(train))
        self.steps_per_epoch = len(train) // self.batch_size
        limit = config.max_epochs * self.steps_per_epoch
        self.total_steps = min(config.max_steps or limit, limit)
        # Channels last and the fused optimiser: 0.42 to 0.37 s a step of one core (batch 8, 256 px,
        # efficientnet_lite0), same weights to rounding.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        # 0.5, 0.999: RD4AD's main.py. Coupled weight decay (Adam, not AdamW): the paper's sum.
        self.optimiser = torch.optim.Adam(
            self.trained.values(),
            lr=config.learning_rate,
            betas=(0.5, 0.999),
            weight_decay=config.weight_decay,
            fused=True,
        )
        asked = num_micro_batches(config, num_images=len(train), workers=group.size)
        self.placement = self._place(resume)
        self.history: list[dict[str, float]] = []
        self.step, self.best_epoch, self.best_loss = 0, 0, math.inf
        self.best = _copy(model)
        if resume:
            self._resume(resume)
        self.asked_micro_batches = asked
        self.batches = Batches(
            model,
            self._loss,
            num_micro_batches=max(asked, resume.num_micro_batches if resume else 0),
            group=group,
        )

    def run(self, report: Report | None, save: Save | None, checkpoint_s: float) -> FitResult:
        student_seconds, num_images, saved_at = 0.0, 0, time.monotonic()
        while self.step < self.total_steps and not self._is_patient_no_more():
            epoch, began = len(self.history), time.perf_counter()
            losses = []
            for rows in self._epoch(epoch)[: self.total_steps - self.step]:
                losses.append(self._step(rows))
                self.step += 1
            student_seconds += time.perf_counter() - began
            num_images += len(losses) * self.batch_size
            row = {
                "epoch": epoch,
                "step": self.step,
                "loss": float(np.mean(losses)),
                "validation_loss": self.group.broadcast(self._validation_loss()),
                "learning_rate": self._rate(self.step - 1),
            }
            self.history.append(row)
            if row["validation_loss"] < self.best_loss:
                self.best_loss, self.best_epoch = row["validation_loss"], epoch
                self.best = _copy(self.model)
            if save and not self.group.rank and time.monotonic() - saved_at >= checkpoint_s:
                save(self._checkpoint())
                saved_at = time.monotonic()
            if report:
                report({**row, "seconds": time.perf_counter() - began})
        self.model.load_trained_state(self.best)
        self.model.eval()
        self._calibrate_levels()
        return FitResult(
            history=self.history,
            best_epoch=self.best_epoch,
            steps=self.step,
            seconds=time.perf_counter() - self.started,
            teacher_seconds=self.train.seconds + self.validation.seconds,
            images_per_s=num_images / student_seconds if student_seconds else 0.0,
            placement=self.placement,
            digest=digest(self.model.trained_state()),
            num_micro_batches=self.batches.num_micro_batches,
            warnings=self._warnings(),
        )

    def _is_patient_no_more(self) -> bool:
        return bool(self.history) and (
            len(self.history) - 1 - self.best_epoch >= self.config.patience
        )

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            model=_copy(self.model),
            best=self.best,
            moments=moments_of(self.optimiser, self.trained),
            step=self.step,
            best_epoch=self.best_epoch,
            history=list(self.history),
            precision="bfloat16" if self.placement.precision is torch.bfloat16 else "float32",
            num_micro_batches=self.batches.num_micro_batches,
        )

    def _resume(self, state: Checkpoint) -> None:
        self.model.load_trained_state(dict(state.model))
        put_moments(self.optimiser, self.trained, state.moments)
        place = self.placement.device
        self.best = {name: tensor.to(place) for name, tensor in state.best.items()}
        self.step, self.best_epoch = state.step, state.best_epoch
        self.history = list(state.history)
        if math.isfinite(loss := self.history[self.best_epoch]["validation_loss"]):
            self.best_loss = loss

    def _warnings(self) -> list[str]:
        number = self.batches.num_micro_batches
        if number == self.asked_micro_batches:
            return []
        return [
            f"memory ran out: batches of {self.batch_size} were computed "
            f"{math.ceil(self.batch_size / number)} images at a time, which batch norm saw; set "
            "train.micro_batch_size to that for the same model next time"
        ]

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        order = seeds.stream(self.config.seed, "order", epoch).permutation(len(self.train))
        # A short last batch would give the batch norms other statistics; it is left to the next
        # epoch's order.
        return np.split(order[: self.steps_per_epoch * self.batch_size], self.steps_per_epoch)

    def _step(self, rows: np.ndarray) -> float:
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.batches.backward(self.step, rows)
        self.optimiser.step()
        return loss

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
            roi=self.model.level_roi,
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
            loss = distillation_loss(
                self.model.pairs(levels),
                anchor=self.model.config.anchor,
                roi=self.model.level_roi,
            )
            total += loss.item() * len(levels[0])
        return total / len(self.validation)

    @torch.inference_mode()
    def _calibrate_levels(self) -> None:
        """Mean and standard deviation of each level's distances over held-out good pixels."""
        per_level: list[list[Tensor]] = [[] for _ in self.model.levels]
        regions: Sequence[Tensor | None] = self.model.level_roi or [None] * len(per_level)
        for levels in self.validation.batches():
            pairs = self.model.pairs(levels)
            found_maps = maps.level_maps(pairs, anchor=self.model.config.anchor)
            for found, m, roi in zip(per_level, found_maps, regions, strict=True):
                found.append(inside(m, roi).flatten())
        for n, found in enumerate(per_level):
            std, mean = torch.std_mean(torch.cat(found))
            self.model.get_buffer("level_mean")[n] = mean
            self.model.get_buffer("level_std")[n] = std.clamp_min(1e-6)

    def _place(self, resume: Checkpoint | None) -> device.Placement:
        """Device of the model; precision as before or as asked, or by timing a step in each."""
        config = self.config
        if resume:
            return device.choose(config.device, resume.precision)
        found = device.choose(config.device, config.precision, measure=self._time_step)
        own = found.precision is torch.bfloat16
        first = bool(self.group.broadcast(float(own)))
        if own == first:
            return found
        return device.choose(config.device, "bfloat16" if first else "float32")

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
