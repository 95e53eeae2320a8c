"""How far a night is: which shards are in hand, its line every 30 s, gauges for Prometheus."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from ray.util.metrics import Gauge

log = logging.getLogger(__name__)

_LINE_S, _BAR_S = 30.0, 1.0
_BAR = 30


class NightBoard:
    """What processes have in hand, so that one that dies leaves word; the actor's class."""

    def __init__(self) -> None:
        self._maps_dropped = False
        self._scorers: list[Any] = []
        self.clear()

    def clear(self) -> None:
        """Forgets what is in hand: a new pass begins."""
        self._begins: Counter[tuple[str, str]] = Counter()
        self._in_hand: set[tuple[str, str]] = set()
        self._places: dict[str, tuple[str, int | None]] = {}

    def begin(self, shard: str, step: str) -> int:
        """Takes a step of a shard in hand; how often it was since it was last done, this once too.

        Each time but this one a process died of it, or with its machine.
        """
        self._begins[shard, step] += 1
        self._in_hand.add((shard, step))
        return self._begins[shard, step]

    def end(self, shard: str, step: str) -> None:
        """The step is done; once more is not a death, but a block that was lost with its node."""
        self._begins.pop((shard, step), None)
        self._in_hand.discard((shard, step))

    def drop_maps(self) -> None:
        """From now on no map is stored: the night is late."""
        self._maps_dropped = True

    def maps_dropped(self) -> bool:
        """Whether `drop_maps` was called."""
        return self._maps_dropped

    def join(self, scorer: Any) -> None:
        """Takes down the handle of a scorer of the pass."""
        self._scorers.append(scorer)

    def scorers(self) -> list[Any]:
        """The scorers of the pass."""
        return self._scorers

    def dismiss(self) -> None:
        """Forgets them, as an actor lives as long as anybody holds its handle."""
        self._scorers = []

    def in_hand(self) -> dict[str, int]:
        """The shards that a process has in hand, and how often it was begun with."""
        return {shard: self._begins[shard, step] for shard, step in self._in_hand}

    def start(self, task: str) -> bool:
        """The first place of a task; False where it has run before, as Ray repeats some."""
        if task in self._places:
            return False
        self._places[task] = ("start", None)
        return True

    def put(self, task: str, place: str, number: int | None) -> None:
        """Where a task is: reading, decoding the image of that number, scoring."""
        self._places[task] = (place, number)

    def place(self, task: str) -> tuple[str, int | None]:
        """Where a task was last; before its start where it never said so."""
        return self._places.get(task, ("start", None))


class NightProgress:
    """Tells, within a `with` block, how far a revision is; on a terminal as a bar.

    Args:
        run: name of the night.
        num_images: that are to be scored.
        every_s: seconds between two lines; None: 30 s, or 1 s on a terminal.
        watches: called at each line with the number of images that are left and those done a
            second.
    """

    def __init__(
        self,
        run: str,
        num_images: int,
        every_s: float | None = None,
        watches: Sequence[Callable[[int, float], None]] = (),
    ) -> None:
        self._run, self._num_images, self._watches = run, num_images, watches
        self._done = self._errors = 0
        self._began = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._every_s = every_s or (_BAR_S if self._terminal else _LINE_S)
        self._left = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="mrkd-progress", daemon=True)
        self._gauge = Gauge(
            "mrkd_night_images",
            description="Images of a night's revision by state.",
            tag_keys=("run", "state"),
        )
        self._eta_gauge = Gauge(
            "mrkd_night_eta_seconds", description="Seconds left of a night.", tag_keys=("run",)
        )

    def __enter__(self) -> Self:
        self._ticker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left.set()
        self._ticker.join()
        self.tell()
        if self._terminal:
            sys.stderr.write("\n")

    def add(self, counts: Mapping[str, int]) -> None:
        """Counts the rows of a committed shard, by `ok`, `nok` and each error kind."""
        self._done += sum(counts.values())
        self._errors += sum(n for kind, n in counts.items() if kind not in ("ok", "nok"))

    @property
    def images_per_s(self) -> float:
        """Since this start."""
        return self._done / max(time.monotonic() - self._began, 1e-9)

    def tell(self) -> None:
        """Sets the gauges and tells the line."""
        done, rate = self._done, self.images_per_s
        left = self._num_images - done
        states = {"done": done, "left": left, "errors": self._errors}
        for state, number in states.items():
            self._gauge.set(number, tags={"run": self._run, "state": state})
        for watch in self._watches:
            watch(left, rate)
        eta = "unknown"
        if rate or not left:
            eta_s = left / rate if left else 0.0
            self._eta_gauge.set(eta_s, tags={"run": self._run})
            eta = f"{eta_s:.0f}s"
        facts = (
            f"done={done} of={self._num_images} rate={rate:.1f}/s eta={eta} errors={self._errors}"
        )
        if self._terminal:
            full = _BAR * done // max(1, self._num_images)
            sys.stderr.write(f"\r[{'#' * full}{'.' * (_BAR - full)}] {facts}\x1b[K")
            sys.stderr.flush()
        else:
            log.info("night %s", facts)

    def _tick(self) -> None:
        while not self._left.wait(self._every_s):
            self.tell()
