"""Attempts: calls by category under way at one time, each tried again where that may help."""

from __future__ import annotations

import heapq
import itertools
import logging
import re
import time
from collections import Counter
from collections.abc import Generator, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from mrkd.errors import MemoryShortError, MrkdError, StorageError

log = logging.getLogger(__name__)

Handle = TypeVar("Handle", bound=Hashable)

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_MAX_BACKOFF_S, _WAIT_S = 300.0, 30.0
LOST_S, _MEMORY_S = 24 * 3600.0, 1800.0


@dataclass(frozen=True)
class Attempt:
    """The end of one start of a category; `error`, one line, is empty where it did not fail."""

    category: str
    number: int
    """Number of this start, from 1."""
    result: Any = None
    error: str = ""
    traceback: str = ""
    last: bool = True
    """Whether the category is not started again."""
    out_of_memory: bool = False
    """Whether it failed because memory ran out, of its device or of its node."""
    lost: str = ""
    """Reason, where it ended through no fault of its own, as its node was lost; else empty."""


class PlacedCalls(Protocol[Handle]):
    """The calls of an executor, one for each start of a category."""

    def start(self, category: str) -> Handle:
        """Starts a call."""

    def wait(self, running: Sequence[Handle], timeout_s: float) -> Iterable[Handle]:
        """The calls that ended, as soon as one has; none after that time."""

    def end(self, handle: Handle, category: str, number: int) -> Attempt:
        """The attempt of a call that ended, the last where another start would end alike."""

    def cancel(self, running: Sequence[Handle]) -> None:
        """Ends the calls that are under way."""


def attempts(
    calls: PlacedCalls[Handle],
    categories: Iterable[str],
    *,
    max_failures: int,
    lost_s: float = LOST_S,
    backoff_s: float = 0.0,
    at_once: int | None = None,
) -> Generator[Attempt, None, None]:
    """Starts a call for each category, in order, and again after an attempt that is not the last.

    Args:
        calls: calls of an executor.
        categories: names in the order in which their calls are started.
        max_failures: number of further starts of a category that failed.
        lost_s: seconds since it was first lost in which a category is started again each time
            that it is, without counting; where a node had no memory left, at most half an hour.
        backoff_s: seconds before a category is started again; doubled with each further start.
        at_once: calls under way at one time; None: all.

    Yields:
        Every attempt as it ends. A caller that leaves before the last ends the calls under way.
    """
    order = itertools.count()
    # (when it may start, its turn, category, number): those that are not started yet.
    waiting = [(0.0, next(order), category, 1) for category in categories]
    running: dict[Handle, tuple[str, int]] = {}
    tries = Tries(max_failures, lost_s)
    try:
        while waiting or running:
            now = time.monotonic()
            while waiting and waiting[0][0] <= now and (at_once is None or len(running) < at_once):
                _, _, category, number = heapq.heappop(waiting)
                running[calls.start(category)] = category, number
            timeout_s = waiting[0][0] - now if waiting else _WAIT_S
            if not running:
                time.sleep(max(0.0, timeout_s))
                continue
            for one in calls.wait(list(running), min(max(timeout_s, 0.05), _WAIT_S)):
                category, number = running.pop(one)
                attempt = tries.counted(calls.end(one, category, number))
                if attempt.error:
                    log.error(
                        "failed category=%s attempt=%d error=%s", category, number, attempt.error
                    )
                if not attempt.last:
                    delay = min(backoff_s * 2 ** (number - 1), _MAX_BACKOFF_S)
                    entry = (time.monotonic() + delay, next(order), category, number + 1)
                    heapq.heappush(waiting, entry)
                yield attempt
    finally:
        calls.cancel(list(running))


class Tries:
    """How often each category may still be started.

    Args:
        max_failures: number of further starts of one that failed.
        lost_s: see `attempts`.
    """

    def __init__(self, max_failures: int, lost_s: float = LOST_S) -> None:
        self._max_failures, self._lost_s = max_failures, lost_s
        self._failures: Counter[str] = Counter()
        self._lost_at: dict[str, float] = {}

    def counted(self, attempt: Attempt) -> Attempt:
        """The attempt, the last where its category has used up its starts."""
        name = attempt.category
        if attempt.last:
            return attempt
        if not attempt.lost:
            self._failures[name] += 1
            return replace(attempt, last=self._failures[name] > self._max_failures)
        most = min(self._lost_s, _MEMORY_S) if attempt.out_of_memory else self._lost_s
        now = time.monotonic()
        return replace(attempt, last=now - self._lost_at.setdefault(name, now) >= most)


def failed(category: str, number: int, error: BaseException, traceback: str) -> Attempt:
    """The attempt of a call that raised an exception.

    It is not the last where storage was unreachable, or a device or process failed: the same call
    may then succeed. torch raises RuntimeError for a device's failure, as for some bugs; one more
    try costs little.
    """
    from torch import OutOfMemoryError

    if isinstance(error, MrkdError):
        text = str(error) or type(error).__name__
        may_pass = isinstance(error, StorageError) and error.kind == "unreachable"
    else:
        text = f"{type(error).__name__}: {error}"
        may_pass = isinstance(error, RuntimeError | OSError)
    return Attempt(
        category,
        number,
        error=one_line(text),
        traceback=_COLOUR.sub("", traceback),
        last=not may_pass,
        out_of_memory=isinstance(error, MemoryShortError | OutOfMemoryError),
    )


def one_line(text: object) -> str:
    """The text without line breaks."""
    return " ".join(str(text).split())
