"""Progress of a fleet: its categories by state, and the time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mrkd.on_ray import status_actor
from mrkd.on_ray.progress import Figures, Progress, seconds

_GAUGES = (
    "mrkd_fleet_categories",
    "Categories of a fleet by state.",
    "mrkd_fleet_eta_seconds",
    "Seconds left of a fleet.",
)


class FleetProgress(Progress):
    """Progress of the categories that are trained: their work in any one unit, their steps."""

    def __init__(
        self,
        run: str,
        work: Mapping[str, float],
        total_steps: Mapping[str, int],
        *,
        num_up_to_date: int,
        status: Any,
    ) -> None:
        super().__init__(run, _GAUGES)
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
        reports: dict[str, Any] = status_actor.ask(self._status.reports.remote(), otherwise={})
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
            f"up_to_date={states['up_to_date']} eta={seconds(eta_s)}"
        )
        return Figures(states, eta_s, line)
