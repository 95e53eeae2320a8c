"""Training of one category in plain torch: features once, then steps on the student alone."""

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

from mrkd import seeds
from mrkd.config import FitConfig
from mrkd.model import device
from mrkd.model.feature_cache import TeacherFeatures
from mrkd.model.mrkd import MRKD
from mrkd.training.fit.batch_step import Batches, Rows, num_micro_batches
from mrkd.training.fit.precision import place
from mrkd.training.fit.process_group import ProcessGroup
from mrkd.training.fit.resume_state import Checkpoint, copy_of, digest, moments_of, put_moments
from mrkd.training.fit.step_loss import TrainingLoss
from mrkd.training.fit.validation import (
    calibrate_levels,
    calibrate_score,
    fit_gaussian,
    validation_loss,
)

log = logging.getLogger(__name__)

Report = Callable[[Mapping[str, Any]], None]
Save = Callable[[Checkpoint], None]


@dataclass(frozen=True)
class FitResult:
    """Result of a training.

    Args:
        history: one row an epoch: epoch, step, loss, validation_loss, learning_rate; equal for
            equal trainings.
        best_epoch: the epoch whose weights the model holds.
        steps: optimiser steps taken.
        seconds: seconds of this call; with the teacher's pass, unless the features were computed.
        images_per_s: training images through the student, per second of this call's epochs.
        placement: device, precision and the reason for both.
        digest: sha256 over the trained weights.
        num_micro_batches: number of micro-batches of a batch at the end.
        warnings: warnings, one line each.
    """

    history: list[dict[str, float]]
    best_epoch: int
    steps: int
    seconds: float
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
    group: ProcessGroup | None = None,
    resume: Checkpoint | None = None,
    save: Save | None = None,
    checkpoint_s: float = 0.0,
) -> FitResult:
    """Trains bottleneck and student; the model ends in eval mode with the best weights.

    On a CPU in float32 it ends with the same bits however often it was interrupted and resumed.

    Args:
        model: fresh from `model.build`, on the device of its teacher.
        train: good images.
        validation: held-out good images, for early stopping and the levels' calibration.
        config: steps, rates, seed.
        sample_ids: one name for each training image; the masks drawn for it depend on the name.
        report: called with each epoch's row of the history and its seconds, on every worker.
        group: the workers that share each batch, all called with equal arguments; None: this one
            alone.
        resume: checkpoint of an earlier call; its epochs are not reported again.
        save: called with a checkpoint at the end of an epoch, by the group's first worker.
        checkpoint_s: least number of seconds between two checkpoints.

    Raises:
        CategoryError: memory runs out even with two images at a time.
        RuntimeError: the workers of a group go on from different checkpoints.
        ValueError: fewer than two training images, no validation image, names that do not match
            the images, or features of another region of interest than the model's.

    Source: paper section 4.2, spec sections 5 and 6.
    """
    if len(train) < 2 or len(validation) < 1 or len(sample_ids) != len(train):
        raise ValueError(
            f"{len(train)} training and {len(validation)} validation images, "
            f"{len(sample_ids)} names: needs at least 2 and 1, and a name for each"
        )
    if not all(_same(features.roi, model.pixel_roi) for features in (train, validation)):
        raise ValueError("the features are not of the model's region of interest")
    group = group or ProcessGroup()
    _check_start(group, resume.step if resume else 0)
    one = _Fit(model, train, validation, config, sample_ids, group, resume)
    return one.run(report, save, checkpoint_s)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one.cpu(), other.cpu())


def _check_start(group: ProcessGroup, step: int) -> None:
    """Refuses workers that start at different steps: their collective operations would mismatch.

    A first worker that outlives its killed driver may save once more while the next group reads.
    """
    first = group.broadcast(step)
    if group.any(step != first):
        raise RuntimeError(
            f"the group's workers read different checkpoints: this one's is of step {step}, the "
            f"first one's of step {first:.0f}; start the training again"
        )


class _Fit:
    """State of one call of `fit`."""

    def __init__(
        self,
        model: MRKD,
        train: TeacherFeatures,
        validation: TeacherFeatures,
        config: FitConfig,
        sample_ids: Sequence[str],
        group: ProcessGroup,
        resume: Checkpoint | None,
    ) -> None:
        self.started = time.perf_counter()
        self.model, self.config, self.group = model, config, group
        self.train, self.validation = train, validation
        if model.config.feature_norm == "standardise":
            model.set_feature_statistics(train.statistics(roi=model.all_level_roi))
        if model.config.gaussian:
            fit_gaussian(model, train)
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
        self.loss = TrainingLoss(
            model, train, config, sample_ids=sample_ids, total_steps=self.total_steps
        )
        self.placement = place(model, self.loss, config, group=group, resume=resume)
        self.loss.precision = self.placement.precision
        self.asked = num_micro_batches(config, num_images=len(train), workers=group.size)
        number = max(self.asked, resume.num_micro_batches) if resume else self.asked
        self.batches = Batches(model, self.loss, num_micro_batches=number, group=group)
        self.history: list[dict[str, float]] = []
        self.step, self.best_epoch, self.best_loss = 0, 0, math.inf
        self.best = copy_of(model)
        if resume:
            self._resume(resume)

    def run(self, report: Report | None, save: Save | None, checkpoint_s: float) -> FitResult:
        """Trains to the end; arguments as of `fit`."""
        student_seconds, began_at, saved_at = 0.0, self.step, time.monotonic()
        while not self._is_over():
            began = time.perf_counter()
            batches = self._order(len(self.history))[: self.total_steps - self.step]
            losses = [self._take_step(rows) for rows in batches]
            student_seconds += time.perf_counter() - began
            self._close_epoch(losses)
            overdue = time.monotonic() - saved_at >= checkpoint_s
            # After the last epoch the whole model is about to be stored.
            if save and self.group.rank == 0 and overdue and not self._is_over():
                save(self._checkpoint())
                saved_at = time.monotonic()
            if report:
                report({**self.history[-1], "seconds": time.perf_counter() - began})
        self.model.load_trained_state(self.best)
        self._round()
        self.model.eval()
        calibrate_levels(self.model, self.validation)
        if self.model.config.gaussian:
            calibrate_score(self.model, self.validation)
        num_images = (self.step - began_at) * self.batch_size
        return FitResult(
            history=self.history,
            best_epoch=self.best_epoch,
            steps=self.step,
            seconds=time.perf_counter() - self.started,
            images_per_s=num_images / student_seconds if student_seconds else 0.0,
            placement=self.placement,
            digest=digest(self.model.trained_state()),
            num_micro_batches=self.batches.num_micro_batches,
            warnings=self._warnings(),
        )

    @torch.no_grad()
    def _round(self) -> None:
        """Rounds weights to float16 values: a stored model is half as large, and no different."""
        for parameter in self.trained.values():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half())

    def _is_over(self) -> bool:
        """Whether all steps are taken, or the held-out loss has not fallen for too many epochs."""
        waited = len(self.history) - 1 - self.best_epoch
        return self.step >= self.total_steps or (
            bool(self.history) and waited >= self.config.patience
        )

    def _close_epoch(self, losses: Sequence[float]) -> None:
        """Adds the epoch's row to the history, and keeps its weights if they are the best."""
        # On the first worker alone: the others do not need held-out features until the end.
        held_out = 0.0 if self.group.rank else validation_loss(self.model, self.validation)
        row = {
            "epoch": len(self.history),
            "step": self.step,
            "loss": float(np.mean(losses)),
            "validation_loss": self.group.broadcast(held_out),
            "learning_rate": self._rate(self.step - 1),
        }
        if row["validation_loss"] < self.best_loss:
            self.best_loss, self.best_epoch = row["validation_loss"], len(self.history)
            self.best = copy_of(self.model)
        self.history.append(row)

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            model=copy_of(self.model),
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
        found = self.placement.device
        self.best = {name: tensor.to(found) for name, tensor in state.best.items()}
        self.step, self.best_epoch = state.step, state.best_epoch
        self.history = list(state.history)
        if math.isfinite(loss := self.history[self.best_epoch]["validation_loss"]):
            self.best_loss = loss

    def _warnings(self) -> list[str]:
        number = self.batches.num_micro_batches
        if number == self.asked:
            return []
        return [
            f"memory ran out: batches of {self.batch_size} were computed "
            f"{math.ceil(self.batch_size / number)} images at a time, which batch norm saw; set "
            "train.micro_batch_size to that for the same model next time"
        ]

    def _order(self, epoch: int) -> list[Rows]:
        """The rows of each of an epoch's batches."""
        order = seeds.stream(self.config.seed, "order", epoch).permutation(len(self.train))
        # A short last batch would give the batch norms other statistics; it is left to the next
        # epoch's order.
        return np.split(order[: self.steps_per_epoch * self.batch_size], self.steps_per_epoch)

    def _take_step(self, rows: Rows) -> float:
        self.model.train()
        for parameters in self.optimiser.param_groups:
            parameters["lr"] = self._rate(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.batches.backward(self.step, rows)
        self.optimiser.step()
        self.step += 1
        return loss

    def _rate(self, step: int) -> float:
        warm, total = self.config.warmup_steps, self.total_steps
        if step < warm:
            return self.config.learning_rate * (step + 1) / warm
        if self.config.schedule == "constant":
            return self.config.learning_rate
        done = (step - warm) / max(1, total - warm)
        return self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
