"""Progress of a fleet or a night: gauges for Prometheus, and at intervals a log line or a bar."""

from __future__ import annotations

import logging
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

from mrkd.runs.status import Gauge, Status

log = logging.getLogger(__name__)

_LINE_S, _BAR_S = 30.0, 1.0
_BAR = 30


NewGauge = Callable[[str, str, tuple[str, ...]], Gauge]


class Figures(NamedTuple):
    """Units of a run by state, the seconds left, and the log line, which begins with its event."""

    states: Mapping[str, int]
    eta_s: float | None
    line: str


class Progress(ABC):
    """Publishes how far a run is, and calls its checks, at intervals.

    Its gauges are `mrkd_<noun>_<units>`, by state, and `mrkd_<noun>_eta_seconds`. With `bar`, a
    terminal shows a bar instead of lines.

    Args:
        run: name of the run.
        noun: the run's kind.
        units: its units, in the plural.
        gauge: `Executor.gauge`.
        bar: whether a terminal shows a bar.

    Attributes:
        every_s: seconds between two lines, by default 30, or 1 where there is a bar.
        checks: functions that are called before each line.
    """

    def __init__(
        self, run: str, noun: str, units: str, gauge: NewGauge, *, bar: bool = False
    ) -> None:
        self.checks: list[Callable[[], None]] = []
        self._tags = {"run": run}
        self._bar = bar and sys.stderr.isatty()
        self.every_s = _BAR_S if self._bar else _LINE_S
        text, eta_text = f"{units.capitalize()} of a {noun} by state.", f"Seconds left of a {noun}."
        self._gauge = gauge(f"mrkd_{noun}_{units}", text, ("run", "state"))
        self._eta_gauge = gauge(f"mrkd_{noun}_eta_seconds", eta_text, ("run",))

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


class FleetProgress(Progress):
    """Progress of the categories that are trained: their work in any one unit, their steps."""

    def __init__(
        self,
        run: str,
        work: Mapping[str, float],
        total_steps: Mapping[str, int],
        *,
        num_up_to_date: int,
        status: Status,
        gauge: NewGauge,
    ) -> None:
        super().__init__(run, "fleet", "categories", gauge)
        self._work, self._total_steps = dict(work), total_steps
        self._status, self._started = status, time.monotonic()
        self._ended: dict[str, str] = {}
        self._num_up_to_date = num_up_to_date

    def end(self, category: str, status: str) -> None:
        """Counts a category that has ended."""
        self._ended = {**self._ended, category: status}  # read by the thread meanwhile
        self.publish()

    def under_way(self) -> dict[str, dict[str, Any]]:
        """The last report of each category that was started and has not ended."""
        reports = self._status.reports()
        return {name: row for name, row in reports.items() if name not in self._ended}

    def figures(self) -> Figures:
        """Categories by state, and the seconds left at the pace so far."""
        running, ended = self.under_way(), self._ended
        states = Counter(ended.values())
        states["up_to_date"] += self._num_up_to_date
        states["running"] = len(running)
        states["queued"] = len(self._work) - len(ended) - len(running)
        done = sum(self._work[name] for name in ended)
        for name, row in running.items():
            share = row.get("step", 0) / max(1, self._total_steps[name])
            done += self._work[name] * min(1.0, share)
        elapsed_s = time.monotonic() - self._started
        eta_s = elapsed_s * (sum(self._work.values()) / done - 1) if done else None
        line = (
            f"fleet done={states['trained']} running={states['running']} "
            f"queued={states['queued']} failed={states['failed']} "
            f"up_to_date={states['up_to_date']} eta={_seconds(eta_s)}"
        )
        return Figures(states, eta_s, line)


class NightProgress(Progress):
    """Progress of a revision of so many images; on a terminal a bar."""

    def __init__(self, run: str, num_images: int, gauge: NewGauge) -> None:
        super().__init__(run, "night", "images", gauge, bar=True)
        self._num_images = num_images
        self._done = self._errors = 0
        self._began = time.monotonic()

    def add(self, counts: Mapping[str, int]) -> None:
        """Counts the rows of a committed shard, by `ok`, `nok` and each error kind."""
        self._done += sum(counts.values())
        self._errors += sum(n for kind, n in counts.items() if kind not in ("ok", "nok"))

    @property
    def left(self) -> int:
        """Images that are not done."""
        return self._num_images - self._done

    @property
    def images_per_s(self) -> float:
        """The rate since this start."""
        return self._done / max(time.monotonic() - self._began, 1e-9)

    def figures(self) -> Figures:
        """Images by state, and the seconds left at the rate so far."""
        left, rate, errors = self.left, self.images_per_s, self._errors
        done, eta_s = self._num_images - left, 0.0 if not left else left / rate if rate else None
        line = (
            f"night done={done} of={self._num_images} rate={rate:.1f}/s eta={_seconds(eta_s)} "
            f"errors={errors}"
        )
        return Figures({"done": done, "left": left, "errors": errors}, eta_s, line)


def _seconds(eta_s: float | None) -> str:
    """The seconds left, for a log line."""
    return "unknown" if eta_s is None else f"{eta_s:.0f}s"
