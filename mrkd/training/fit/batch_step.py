"""One optimiser step, its batch in one piece or in several, by one worker or by a group.

Each piece, a micro-batch, is one forward and backward pass of one worker. Loss and gradients are
the mean over the batch's images. Batch norm sees one micro-batch at a time; its running statistics
after a step are the mean over what they would be after each of the step's micro-batches.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mrkd.config import FitConfig
from mrkd.errors import CategoryError, MemoryShortError
from mrkd.model.memory import is_out_of_memory, release
from mrkd.training.fit.process_group import ProcessGroup

log = logging.getLogger(__name__)

Rows = NDArray[np.int64]

_MIN_IMAGES = 2
"""Least images in a micro-batch: batch norm has no variance for one where a level is one pixel."""


def num_micro_batches(config: FitConfig, *, num_images: int, workers: int = 1) -> int:
    """Number of micro-batches that a batch is cut into: a multiple of the workers.

    Args:
        config: configuration of the training; `micro_batch_size` holds as far as each micro-batch
            then has two images.
        num_images: number of images that are trained on; a batch has no more.
        workers: number of workers that share the batch.

    Raises:
        CategoryError: so many workers leave less than two images for one of them.
    """
    batch = min(config.batch_size, num_images)
    most = batch // _MIN_IMAGES // workers * workers
    if not most:
        raise CategoryError(
            f"a batch of {batch} images for {workers} workers_per_category: each needs at least "
            f"{_MIN_IMAGES}; lower fleet.workers_per_category or raise train.batch_size"
        )
    if not config.micro_batch_size:
        return workers
    return min(most, math.ceil(batch / config.micro_batch_size / workers) * workers)


class Batches:
    """Computes the loss and the gradients of whole batches.

    Args:
        model: the model that is trained.
        loss: mean loss of some of a batch's images: a scalar with its graph.
        num_micro_batches: number that a batch is cut into, doubled when memory runs out.
        group: the workers that share the batch.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[int, Rows], Tensor],
        *,
        num_micro_batches: int,
        group: ProcessGroup,
    ) -> None:
        self._model, self._loss, self._group = model, loss, group
        self.num_micro_batches = num_micro_batches
        self._norms = _Norms(model)

    def backward(self, step: int, rows: Rows) -> float:
        """Computes the gradients of the batch's mean loss, and returns that loss.

        Args:
            step: optimiser step, for `loss`.
            rows: rows of the batch, equal on every worker; the last step's gradients are cleared.

        Raises:
            MemoryShortError: memory runs out even with two images at a time.
        """
        before = self._norms.read()
        while True:
            loss = self._own_share(step, rows, before)
            # Before anything is sent: a worker that lacks memory would leave the others waiting.
            if not self._group.any(loss is None):
                assert loss is not None
                return self._joined(loss)
            self._norms.write(before)
            self._model.zero_grad(set_to_none=True)
            self._cut_smaller(len(rows))

    def _own_share(self, step: int, rows: Rows, before: _Read) -> Tensor | None:
        """This worker's micro-batches: their part of the loss; None where memory ran out.

        Leaves in the running statistics the sum of those that each micro-batch would give.
        """
        pieces = np.array_split(rows, self.num_micro_batches)
        own = pieces[self._group.rank :: self._group.size]
        total = torch.zeros((), device=before.statistics.device)
        sums = torch.zeros_like(before.statistics)
        try:
            for number, piece in enumerate(own):
                if number:
                    sums += self._norms.read().statistics
                    self._norms.write(before)
                loss = self._loss(step, piece) * (len(piece) / len(rows))
                loss.backward()
                total += loss.detach()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None
        if len(own) > 1:
            self._norms.add(sums)
        return total

    def _joined(self, loss: Tensor) -> float:
        """Sums loss, gradients and statistics over the workers; the sum of the losses."""
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        self._group.add([loss.reshape(1), *gradients, *self._norms.statistics])
        if self.num_micro_batches > 1:
            for t in self._norms.statistics:
                t.div_(self.num_micro_batches)
        return loss.item()

    def _cut_smaller(self, batch_size: int) -> None:
        release()
        number = 2 * self.num_micro_batches
        if batch_size // number < _MIN_IMAGES:
            raise MemoryShortError(
                f"out of memory with {math.ceil(batch_size / self.num_micro_batches)} images at a "
                "time: lower model.image_size or train.cache_bytes, or give its worker more of a "
                "GPU (fleet.gpus_per_worker)"
            )
        self.num_micro_batches = number
        log.warning(
            "out_of_memory micro_batch_size=%d num_micro_batches=%d",
            math.ceil(batch_size / number),
            number,
        )


@dataclass(frozen=True)
class _Read:
    """A copy of the batch norms' buffers, each kind in one tensor: two copies, not hundreds."""

    statistics: Tensor
    counters: Tensor


class _Norms:
    """The batch norms that are trained: all but the teacher's."""

    def __init__(self, model: nn.Module) -> None:
        norms = [
            m
            for m in model.modules()
            if isinstance(m, nn.BatchNorm2d) and any(p.requires_grad for p in m.parameters())
        ]
        self.statistics = [m.get_buffer(n) for m in norms for n in ("running_mean", "running_var")]
        self._counters = [m.get_buffer("num_batches_tracked") for m in norms]

    def read(self) -> _Read:
        return _Read(torch.cat(self.statistics), torch.stack(self._counters))

    def write(self, read: _Read) -> None:
        for t, value in zip(self.statistics, self._split(read.statistics), strict=True):
            t.copy_(value)
        for t, value in zip(self._counters, read.counters, strict=True):
            t.copy_(value)

    def add(self, statistics: Tensor) -> None:
        for t, value in zip(self.statistics, self._split(statistics), strict=True):
            t.add_(value)

    def _split(self, statistics: Tensor) -> Sequence[Tensor]:
        parts: Sequence[Tensor] = statistics.split([len(t) for t in self.statistics])
        return parts
