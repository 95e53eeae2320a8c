"""Workers that share one training, step by step.

Not torch's DistributedDataParallel: it takes the plain mean of the workers' gradients, as if their
shares of a batch were equal, it knows nothing of batch norm's running statistics, and a worker that
runs out of memory leaves the others waiting in it for ever. Here a step's sums are sent in one
message, once every worker has reported that it got that far.

A worker that fails says so in the group's store, and those that wait for its messages end with its
error: a collective operation alone would let them wait for its timeout, half an hour.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from mrkd.errors import DeviceError, MrkdError

T = TypeVar("T", bound=np.generic)
V = TypeVar("V")

STEP_TIMEOUT_S = 120.0
"""Longest wait for the sums of a step, which every worker has agreed to send."""
_LOOK_S = 0.5
_FAILED = "mrkd/failed"


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
        self._run(lambda: distributed.all_reduce(flat, async_op=True), timeout_s=STEP_TIMEOUT_S)
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
        self._run(lambda: distributed.broadcast(sent, src=0, async_op=True))
        return np.asarray(sent.cpu().numpy())

    def send(self, tensors: Sequence[Tensor], *, source: int) -> None:
        """Replaces the values of each tensor by those of one worker.

        Args:
            tensors: tensors with equal shapes and dtypes on every worker, on any device.
            source: rank of the worker.
        """
        if self.size == 1:
            return
        for t in tensors:
            sent = t.to(self._device).contiguous()
            self._run(partial(distributed.broadcast, sent, src=source, async_op=True))
            t.copy_(sent)

    def share(self, value: V) -> list[V]:
        """The values of all workers, by rank: any value that can be pickled."""
        if self.size == 1:
            return [value]
        own = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = np.zeros(self.size, np.int64)
        sizes[self.rank] = len(own)
        counts = torch.from_numpy(sizes).to(self._device)
        self._run(lambda: distributed.all_reduce(counts, async_op=True))
        found = []
        for rank, size in enumerate(counts.tolist()):
            data = torch.zeros(size, dtype=torch.uint8, device=self._device)
            if rank == self.rank:
                data.copy_(torch.from_numpy(own.copy()))
            self._run(partial(distributed.broadcast, data, src=rank, async_op=True))
            found.append(pickle.loads(data.cpu().numpy().tobytes()))
        return found

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any worker."""
        if self.size == 1:
            return flag
        sent = torch.tensor(float(flag), dtype=torch.float64, device=self._device)
        self._run(lambda: distributed.all_reduce(sent, distributed.ReduceOp.MAX, async_op=True))
        return bool(sent.item())

    @contextmanager
    def sharing_failures(self) -> Iterator[None]:
        """Tells the other workers of an error that ends a `with` block, so that none waits."""
        done = False
        try:
            yield
            done = True
        except MrkdError as error:
            self._share(f"{type(error).__name__}: {error}")
            done = True
            raise
        finally:
            if not done:
                self._share("an error that its own log names")

    def check_devices(self, identity: str) -> None:
        """Refuses a group of which two workers compute on one GPU: NCCL cannot, and memory lacks.

        Args:
            identity: name of this worker's GPU that no other has (`device.identity`); empty: it
                computes on a CPU.

        Raises:
            DeviceError: two workers have one GPU.
        """
        if self.size == 1:
            return
        # Not by a collective operation: NCCL has none for two workers on one device.
        store = _store()
        store.set(f"mrkd/device/{self.rank}", identity or "cpu")
        named = [store.get(f"mrkd/device/{n}").decode() for n in range(self.size)]
        same = [n for n, name in enumerate(named) if identity and name == identity]
        if len(same) > 1:
            raise DeviceError(
                f"workers {' and '.join(map(str, same))} of a group compute on one GPU, {identity}:"
                " give each a whole one (fleet.gpus_per_worker 1), or let one worker train a "
                "category (fleet.workers_per_category 1)"
            )

    def _run(self, start: Callable[[], Any], *, timeout_s: float = math.inf) -> None:
        """A collective operation, until it is over or a worker has failed.

        Args:
            start: starts the operation and returns its handle.
            timeout_s: longest wait; without it that of torch's process group holds.

        Raises:
            RuntimeError: another worker failed, was lost, or did not take part in time.
        """
        try:
            work, began, pause = start(), time.monotonic(), 1e-4
            looked = began
            while not work.is_completed():
                time.sleep(pause)
                pause = min(2 * pause, 0.01)
                now = time.monotonic()
                if now - looked > _LOOK_S:
                    looked = now
                    self._check_others()
                if now - began > timeout_s:
                    raise RuntimeError(
                        f"worker {self.rank} of a group waited {timeout_s:.0f} s for the others"
                    )
            work.wait()
        except RuntimeError:
            # A worker that has ended closes its connections: its own error says more.
            self._check_others()
            raise

    def _share(self, text: str) -> None:
        if self.size > 1:
            _store().set(_FAILED, f"worker {self.rank} of the group failed: {text}")

    def _check_others(self) -> None:
        if _store().check([_FAILED]):
            raise RuntimeError(_store().get(_FAILED).decode())

    @property
    def _device(self) -> str:
        """Device of messages."""
        return "cuda" if distributed.get_backend() == "nccl" else "cpu"


def _store() -> Any:
    """The store by which the process group found itself; torch has no public name for it."""
    return distributed.distributed_c10d._get_default_store()
