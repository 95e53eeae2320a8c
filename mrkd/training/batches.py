"""One optimiser step, its batch in one piece or in several, by one worker or by a group.

Each piece, a micro-batch, is one forward and backward pass of one worker. Loss and gradients are
the mean over the batch's images. Batch norm sees one micro-batch at a time; its running statistics
after a step are the mean over what they would be after each of the step's micro-batches.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mrkd.config import FitConfig
from mrkd.errors import CategoryError
from mrkd.parallel import Group

log = logging.getLogger(__name__)

Rows = NDArray[np.int64]

_MIN_IMAGES = 2
"""In a micro-batch: of one, batch norm has no variance where a level is a single pixel."""


def num_micro_batches(config: FitConfig, *, num_images: int, workers: int = 1) -> int:
    """How many micro-batches a batch is cut into: a multiple of the workers.

    Args:
        config: of the training; `micro_batch_size` is kept to as far as two images each allow.
        num_images: that are trained on; a batch has no more.
        workers: that share the batch.

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
        model: that is trained.
        loss: of some of a batch's images, their mean: a scalar with its graph.
        num_micro_batches: that a batch is cut into, doubled when memory runs out.
        group: the workers that share the batch.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[int, Rows], Tensor],
        *,
        num_micro_batches: int,
        group: Group,
    ) -> None:
        self._model, self._loss, self._group = model, loss, group
        self.num_micro_batches = num_micro_batches
        norms = [
            m
            for m in model.modules()
            if isinstance(m, nn.BatchNorm2d) and any(p.requires_grad for p in m.parameters())
        ]
        self._statistics = [m.get_buffer(n) for m in norms for n in ("running_mean", "running_var")]
        self._counters = [m.get_buffer("num_batches_tracked") for m in norms]

    def backward(self, step: int, rows: Rows) -> float:
        """Adds the gradients of the batch's mean loss, and returns that loss.

        Raises:
            CategoryError: memory runs out even with two images at a time.
        """
        while True:
            before = [t.clone() for t in (*self._statistics, *self._counters)]
            loss = self._own_share(step, rows, before)
            # Before anything is sent: whoever lacks memory would leave the others waiting.
            if not self._group.any(loss is None):
                assert loss is not None
                return self._joined(loss)
            self._restore(before)
            self._model.zero_grad(set_to_none=True)
            self._cut_smaller(len(rows))

    def _restore(self, before: Sequence[Tensor]) -> None:
        for t, value in zip((*self._statistics, *self._counters), before, strict=True):
            t.copy_(value)

    def _own_share(self, step: int, rows: Rows, before: Sequence[Tensor]) -> Tensor | None:
        """This worker's micro-batches: their part of the loss; None where memory ran out."""
        total = torch.zeros((), device=next(self._model.parameters()).device)
        sums = [torch.zeros_like(t) for t in self._statistics]
        pieces = np.array_split(rows, self.num_micro_batches)
        try:
            for piece in pieces[self._group.rank :: self._group.size]:
                self._restore(before)
                loss = self._loss(step, piece) * (len(piece) / len(rows))
                loss.backward()
                total += loss.detach()
                for t, value in zip(sums, self._statistics, strict=True):
                    t.add_(value)
        except RuntimeError as error:
            if not _is_lack_of_memory(error):
                raise
            return None
        for t, value in zip(self._statistics, sums, strict=True):
            t.copy_(value)
        return total

    def _joined(self, loss: Tensor) -> float:
        """Adds up what the workers have, and ends the step's statistics."""
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        self._group.add([loss.reshape(1), *gradients, *self._statistics])
        for t in self._statistics:
            t.div_(self.num_micro_batches)
        return loss.item()

    def _cut_smaller(self, batch_size: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        number = 2 * self.num_micro_batches
        if batch_size // number < _MIN_IMAGES:
            raise CategoryError(
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


def _is_lack_of_memory(error: RuntimeError) -> bool:
    """CUDA's has a class of its own, the CPU allocator's is told by its words alone."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
