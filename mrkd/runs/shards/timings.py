"""Timings of a night's steps: seconds, requests to S3, memory; added up by the driver.

Stored as `night.json`, one entry a start, for the night's page.
"""

from __future__ import annotations

import logging
import resource
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mrkd import storage
from mrkd.config import ScoreConfig
from mrkd.errors import StorageError
from mrkd.nights.night import Night

log = logging.getLogger(__name__)

SCHEMA = 1
STAGES = ("list", "read", "decode", "score", "commit", "close")
"""Stages whose seconds are stored; those in workers summed over processes."""


@dataclass(frozen=True)
class Timings:
    """Timings of some steps.

    Args:
        seconds: seconds by stage, of all processes together.
        requests: number of requests by kind, counted by `storage.requests`.
        peak_rss_bytes: most bytes that any one process had in memory so far, including those of
            Ray's object store that it has read.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    requests: Mapping[str, int] = field(default_factory=dict)
    peak_rss_bytes: int = 0

    def __add__(self, other: Timings) -> Timings:
        """Both in sum."""
        seconds: Counter[str] = Counter(self.seconds)
        seconds.update(other.seconds)
        return Timings(
            dict(seconds),
            Counter(self.requests) + Counter(other.requests),
            max(self.peak_rss_bytes, other.peak_rss_bytes),
        )


class Meter:
    """Measures this process from the meter's creation to `took`.

    Args:
        with_requests: whether it counts the process's requests; off where meters overlap.
    """

    def __init__(self, *, with_requests: bool = True) -> None:
        self._before = storage.requests() if with_requests else None
        self._seconds: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Adds the seconds of a block to a stage; for any thread."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - began)

    def add(self, stage: str, seconds: float) -> None:
        """Adds seconds, which may be negative, to a stage."""
        with self._lock:
            self._seconds[stage] += seconds  # type: ignore[assignment] # floats add as well

    @contextmanager
    def time_threads(self) -> Iterator[Meter]:
        """A block whose threads each time their own part; in sum they add the block's seconds."""
        inner, began = Meter(), time.perf_counter()
        try:
            yield inner
        finally:
            elapsed, total = time.perf_counter() - began, sum(inner._seconds.values())
            for stage, seconds in inner._seconds.items():
                self.add(stage, elapsed * seconds / (total or 1))

    def took(self) -> Timings:
        """The timings since the meter's creation."""
        requests = {} if self._before is None else storage.requests() - self._before
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Timings(dict(self._seconds), requests, peak)


def add_start(night: Night, config: ScoreConfig, start: Mapping[str, Any], took: Timings) -> None:
    """Appends one start to the night's `night.json`, with the timings of all processes.

    `start` holds revision, started_at, finished_at, images, images_per_s, attempts, cpus, gpus,
    executor. A failure is logged.
    """
    uri = storage.join(night.uri, "night.json")
    seconds = {stage: round(took.seconds.get(stage, 0.0), 3) for stage in STAGES}
    entry = {
        **start,
        "seconds": seconds,
        "requests": dict(sorted(took.requests.items())),
        "peak_rss_bytes": took.peak_rss_bytes,
    }
    facts = {"schema": SCHEMA, "run": night.run, "workspace": night.workspace}
    try:
        starts = storage.read_json(uri)["starts"] if storage.stat(uri) else []
        content = {**facts, "config": config.to_dict(), "starts": [*starts, entry]}
        storage.write_json(uri, content)
    except (StorageError, KeyError, TypeError) as error:
        log.warning("night_facts_not_stored uri=%s reason=%s", uri, error)
