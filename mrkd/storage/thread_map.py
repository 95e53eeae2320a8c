"""Threads that wait for many files at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")

# Many requests to S3 are to be under way at once; OpenCV decodes without Python's lock.
_THREADS = 16
AHEAD = 4 * _THREADS
"""Results that wait at most for their reader, unless another number is given."""


def in_threads(
    function: Callable[[T], U], items: Iterable[T], *, ahead: int = AHEAD
) -> Iterator[U]:
    """`map` over threads, in order, at most `ahead` items ahead of the results' reader."""
    queue = iter(items)
    with ThreadPoolExecutor(_THREADS) as executor:
        while chunk := list(islice(queue, ahead)):
            yield from executor.map(function, chunk)
