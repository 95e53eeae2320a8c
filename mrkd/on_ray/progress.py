"""Progress of a run: gauges for Prometheus, and a log line or on a terminal a bar, at intervals."""

from __future__ import annotations

import logging
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, Self

from ray.util.metrics import Gauge

log = logging.getLogger(__name__)

_LINE_S, _BAR_S = 30.0, 1.0
_BAR = 30


class Figures(NamedTuple):
    """Units of a run by state, the seconds left, and the log line, which begins with its event."""

    states: Mapping[str, int]
    eta_s: float | None
    line: str


class Progress(ABC):
    """Publishes how far a run is, and calls its checks, at intervals.

    `gauges` are name and description of the gauge of units by state, then of that of seconds left.
    With `bar`, a terminal shows a bar instead of lines.

    Attributes:
        every_s: seconds between two lines, by default 30, or 1 where there is a bar.
        checks: functions that are called before each line.
    """

    def __init__(self, run: str, gauges: Sequence[str], *, bar: bool = False) -> None:
        self.checks: list[Callable[[], None]] = []
        self._tags = {"run": run}
        self._bar = bar and sys.stderr.isatty()
        self.every_s = _BAR_S if self._bar else _LINE_S
        name, text, eta_name, eta_text = gauges
        self._gauge = Gauge(name, description=text, tag_keys=("run", "state"))
        self._eta_gauge = Gauge(eta_name, description=eta_text, tag_keys=("run",))

    @abstractmethod
    def figures(self) -> Figures:
        """How far the run is now."""

    @contextmanager
    def published(self) -> Iterator[Self]:
        """Publishes at intervals from a thread within a `with` block, and once at its end."""
        ended = threading.Event()
        with ThreadPoolExecutor(2, "mrkd-progress") as threads:
            ticking = threads.submit(self._tick, ended, threads)
            try:
                yield self
            finally:
                ended.set()
                ticking.result()
                if self._bar:
                    sys.stderr.write("\n")

    def publish(self) -> None:
        """Sets the gauges, and writes the line or draws the bar."""
        figures = self.figures()
        for state, number in figures.states.items():
            self._gauge.set(number, tags={**self._tags, "state": state})
        if figures.eta_s is not None:
            self._eta_gauge.set(figures.eta_s, tags=self._tags)
        if self._bar:
            done, left = figures.states["done"], figures.states["left"]
            full = _BAR * done // max(1, done + left)
            bar = "#" * full + "." * (_BAR - full)
            sys.stderr.write(f"\r[{bar}] {figures.line.partition(' ')[2]}\x1b[K")
            sys.stderr.flush()
        else:
            log.info("%s", figures.line)

    def _tick(self, ended: threading.Event, threads: ThreadPoolExecutor) -> None:
        is_last = False
        while not is_last:
            is_last = ended.wait(self.every_s)
            for check in (*self.checks, self.publish):
                # In a future, so that what one raises ends neither the others nor the thread: it
                # is called again at the next tick.
                if error := threads.submit(check).exception():
                    log.error("check_failed reason=%r", error, exc_info=error)


def seconds(eta_s: float | None) -> str:
    """The seconds left, for a log line."""
    return "unknown" if eta_s is None else f"{eta_s:.0f}s"
