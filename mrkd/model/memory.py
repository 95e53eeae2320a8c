"""Lack of memory: recognised by its type, and answered with smaller batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from mrkd.errors import MemoryShortError

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger(__name__)

# CUDA's own allocator raises a class of its own. The CPU's, CUDA outside of torch's allocator, and
# the libraries that find a shared GPU full when they start, are recognised by their messages.
_LACK_OF_MEMORY = ("DefaultCPUAllocator", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, or a library below it, lacked memory for a computation."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _LACK_OF_MEMORY)


def attempt(do: Callable[[], T]) -> T | None:
    """The result of a call; None where memory ran out, of which all that is unused is released."""
    try:
        return do()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Not in the handler: the error's traceback holds the tensors of the call.
    release()
    return None


def release() -> None:
    """Gives memory that torch's allocator keeps unused back to the GPU."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def memory_errors(what: str) -> Iterator[None]:
    """Raises a lack of memory in a `with` block as an error of ours.

    Args:
        what: the work of the block, a noun phrase for the message.

    Raises:
        MemoryShortError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryShortError(
            f"out of memory in {what}: lower model.image_size or train.cache_bytes, or give its "
            "worker more of a GPU (fleet.gpus_per_worker)"
        ) from error


class Pieces:
    """Computes a batch in one piece, or in smaller ones from a lack of memory on.

    Args:
        size: largest number of items of a piece.

    Attributes:
        size: largest number of items of a piece now.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def over(
        self, items: Sequence[T], do: Callable[[Sequence[T]], R]
    ) -> Iterator[tuple[Sequence[T], R | None]]:
        """Each piece of the items, in order, with its result.

        Args:
            items: items of any number.
            do: computation of a piece; it has no effect where it raises.

        Yields:
            A piece and its result; None where memory lacks for a piece of one item.
        """
        start = 0
        while start < len(items):
            piece = items[start : start + self.size]

            def computed(piece: Sequence[T] = piece) -> R:
                return do(piece)

            found = attempt(computed)
            if found is None and self.size > 1:
                self.size = (self.size + 1) // 2
                log.warning("out_of_memory batch_size=%d", self.size)
                continue
            yield piece, found
            start += len(piece)
