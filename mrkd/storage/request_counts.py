"""Counts of this process's requests to S3."""

from __future__ import annotations

import threading
from collections import Counter

_lock = threading.Lock()
_asked: Counter[str] = Counter()


def count(*names: str) -> None:
    """Counts one of each name, see `requests`; any thread may."""
    with _lock:
        _asked.update(names)


def requests() -> Counter[str]:
    """How often this process has asked S3 since it began; what a step took is a difference of two.

    GET, PUT, HEAD, LIST and DELETE count HTTP requests, each repetition too; `retried` those that
    repeat one that failed, `slowed` answers that ask for less (503, 429). Local files and pyarrow's
    own readers (`open_uri`) count nothing.
    """
    with _lock:
        return _asked.copy()
