"""How far a fleet is: one line every so often, and gauges for Prometheus.

Workers say how far they are to a board, an actor that takes no CPU; should it die, the lines say
less and no training is lost.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Gauge

from mrkd.on_ray import status_actor

log = logging.getLogger(__name__)


class FleetBoard:
    """The last row that each category reported; the actor's class."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Any]] = {}

    def put(self, category: str, row: Mapping[str, Any]) -> None:
        """Takes a category's row; an empty one says that it was started."""
        self._rows[category] = {**self._rows.get(category, {}), **row}

    def rows(self) -> dict[str, dict[str, Any]]:
        """Every started category's last row."""
        return self._rows


class FleetProgress:
    """Counts of a fleet's categories by state, and the time that is left.

    Args:
        run: name of the fleet.
        work: of each category that is not up to date, in any one unit.
        total_steps: of each one's training, about.
        num_up_to_date: categories that need nothing.
        board: of a `FleetBoard`.
    """

    def __init__(
        self,
        run: str,
        work: Mapping[str, float],
        total_steps: Mapping[str, int],
        *,
        num_up_to_date: int,
        board: Any,
    ) -> None:
        self._run, self._work, self._total_steps = run, dict(work), total_steps
        self._board, self._started = board, time.monotonic()
        self._ended: dict[str, str] = {}
        self._num_up_to_date = num_up_to_date
        self._gauge = Gauge(
            "mrkd_fleet_categories",
            description="Categories of a fleet by state.",
            tag_keys=("run", "state"),
        )
        self._eta_gauge = Gauge(
            "mrkd_fleet_eta_seconds", description="Seconds left of a fleet.", tag_keys=("run",)
        )

    def end(self, category: str, status: str) -> None:
        """A category has ended."""
        self._ended[category] = status
        self.tell()

    def under_way(self) -> dict[str, dict[str, Any]]:
        """The last row of each category that was started and has not ended."""
        rows: dict[str, Any] = status_actor.ask(self._board.rows.remote(), otherwise={})
        return {name: row for name, row in rows.items() if name not in self._ended}

    def tell(self) -> None:
        """Sets the gauges and logs the fleet's line."""
        running = self.under_way()
        states = Counter(self._ended.values())
        states["up_to_date"] += self._num_up_to_date
        states["running"] = len(running)
        states["queued"] = len(self._work) - len(self._ended) - len(running)
        eta_s = self._eta_s(running)
        for state, number in states.items():
            self._gauge.set(number, tags={"run": self._run, "state": state})
        if eta_s is not None:
            self._eta_gauge.set(eta_s, tags={"run": self._run})
        log.info(
            "fleet done=%d running=%d queued=%d failed=%d up_to_date=%d eta=%s",
            states["trained"],
            states["running"],
            states["queued"],
            states["failed"],
            states["up_to_date"],
            "unknown" if eta_s is None else f"{eta_s:.0f}s",
        )

    def _eta_s(self, running: Mapping[str, Mapping[str, Any]]) -> float | None:
        """At the pace so far; None before anything is done."""
        done = sum(self._work[name] for name in self._ended)
        for name, row in running.items():
            share = row.get("step", 0) / max(1, self._total_steps[name])
            done += self._work[name] * min(1.0, share)
        if not done:
            return None
        return (time.monotonic() - self._started) * (sum(self._work.values()) / done - 1)
