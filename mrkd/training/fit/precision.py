"""Device and precision of a training: as asked for, as before, or the faster one of the CPU."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import torch

from mrkd.config import FitConfig
from mrkd.model import device
from mrkd.model.mrkd import MRKD
from mrkd.training.fit.process_group import ProcessGroup
from mrkd.training.fit.resume_state import Checkpoint, copy_of
from mrkd.training.fit.step_loss import TrainingLoss


def place(
    model: MRKD,
    loss: TrainingLoss,
    config: FitConfig,
    *,
    group: ProcessGroup,
    resume: Checkpoint | None,
) -> device.Placement:
    """The placement of this worker; all workers of the group have one precision.

    Args:
        model: model on its device; weights and statistics end as they were.
        loss: loss of that model; it is left in any precision.
        config: device and precision that are asked for.
        group: workers, of which the first decides where precision depends on timing.
        resume: checkpoint whose precision is kept; None: there is none.
    """
    if resume:
        return device.choose(config.device, resume.precision)
    measure = partial(_time_step, model, loss)
    found = device.choose(config.device, config.precision, measure=measure)
    own = found.precision is torch.bfloat16
    first = bool(group.broadcast(own))
    if own == first:
        return found
    return device.choose(config.device, "bfloat16" if first else "float32")


def _time_step(model: MRKD, loss: TrainingLoss, precision: torch.dtype) -> float:
    """Seconds of one forward and backward pass; leaves weights and statistics as they were.

    Of two images: where a precision is emulated, a whole batch of it would take as long as many
    steps of the training.
    """
    loss.precision = precision
    before = copy_of(model)
    model.train()
    began = time.perf_counter()
    loss(0, np.arange(2)).backward()
    seconds = time.perf_counter() - began
    model.zero_grad(set_to_none=True)
    model.load_trained_state(before)
    return seconds
