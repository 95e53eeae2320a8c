"""Workers that share one training, step by step.

Not torch's DistributedDataParallel: it takes the plain mean of the workers' gradients, as if their
shares of a batch were equal, it knows nothing of batch norm's running statistics, and a worker that
runs out of memory leaves the others waiting in it for ever. Here a step's sums are sent in one
message, once every worker has reported that it got that far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class ProcessGroup:
    """Workers that share one training; every one of them makes the same calls in the same order.

    Args:
        rank: number of this worker, from 0.
        size: number of workers; a group of one sends nothing.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Self:
        """The process group that torch is in, a group of one outside of any."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replaces the values of each tensor by their sum over all workers.

        Args:
            tensors: tensors of one dtype and device, with equal shapes on every worker.
        """
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        distributed.all_reduce(flat)
        parts = flat.split([t.numel() for t in tensors])
        for t, part in zip(tensors, parts, strict=True):
            t.copy_(part.view_as(t))

    def broadcast(self, value: float) -> float:
        """The first worker's value."""
        return float(self.broadcast_all(np.array([value], np.float64))[0])

    def broadcast_all(self, values: NDArray[T]) -> NDArray[T]:
        """The first worker's numbers; every worker has as many."""
        if self.size == 1:
            return values
        sent = torch.from_numpy(np.ascontiguousarray(values)).to(self._device)
        distributed.broadcast(sent, src=0)
        return np.asarray(sent.cpu().numpy())

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any worker."""
        if self.size == 1:
            return flag
        sent = torch.tensor(float(flag), dtype=torch.float64, device=self._device)
        distributed.all_reduce(sent, distributed.ReduceOp.MAX)
        return bool(sent.item())

    @property
    def _device(self) -> str:
        """Device of messages."""
        return "cuda" if distributed.get_backend() == "nccl" else "cpu"
