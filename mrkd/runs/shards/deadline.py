"""Deadline of a night: a forecast that it will be missed is an alert at once.

The rest of the night then stores no maps, where the config says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from mrkd.config import ScoreConfig
from mrkd.errors import MrkdError
from mrkd.nights import alerts
from mrkd.nights.alerts import Alert
from mrkd.nights.night import Night

log = logging.getLogger(__name__)

_UNSURE = 0.05
"""Share of a start's time without a forecast: workers load their models meanwhile."""
_LOOKS = 2
"""Number of consecutive looks that must foresee it."""
_SHARE_OF_SPAN, _LEAST_S, _MOST_S = 1 / 240, 0.5, 30.0


def deadline_of(night: Night, config: ScoreConfig, revision: int) -> datetime | None:
    """The time by which a revision must be done; None without a deadline.

    Raises:
        ArtefactError, StorageError: its plan cannot be read.
    """
    span = config.deadline.span
    return night.planned_at(revision) + span if span else None


class Deadline:
    """Foresees whether a revision is done in time, and alerts once if it is not.

    If maps are to be dropped, `drop_maps` is called at each look from then on. The night's lease
    must be held.
    """

    def __init__(
        self, night: Night, config: ScoreConfig, at: datetime, drop_maps: Callable[[], None]
    ) -> None:
        self._night, self._config, self._at, self._drop_maps = night, config, at, drop_maps
        began = datetime.now(UTC)
        self._sure_from = min(at, began + _UNSURE * (at - began))
        self._foreseen = 0
        self._sent = False

    @property
    def every_s(self) -> float:
        """Seconds between two looks: the nearer the deadline, the fewer."""
        assert self._config.deadline.span
        span_s = self._config.deadline.span.total_seconds()
        return max(_LEAST_S, min(_MOST_S, _SHARE_OF_SPAN * span_s))

    def look(self, left: int, images_per_s: float) -> None:
        """Takes the number of images left, and the rate at which they are done."""
        now = datetime.now(UTC)
        if not self._sent and now >= self._sure_from:
            missed = now > self._at
            eta_s = left / images_per_s if images_per_s else None
            late = missed or (eta_s is not None and now + timedelta(seconds=eta_s) > self._at)
            self._foreseen = self._foreseen + 1 if late else 0
            if missed or self._foreseen >= _LOOKS:
                self._send(left, eta_s, now)
        if self._sent and left and self._config.deadline.degraded == "scores_only":
            self._drop_maps()

    def _send(self, left: int, eta_s: float | None, now: datetime) -> None:
        ends = now + timedelta(seconds=eta_s) if eta_s is not None else None
        found = f"is done at {_time(ends)}" if ends else "is not done"
        text = f"the night {found}, its deadline is {_time(self._at)}; {left} images are left"
        if left and self._config.deadline.degraded == "scores_only":
            text += " and get no maps"
        alert = Alert(
            kind="late",
            category="",
            line="",
            text=text,
            value=round(((ends or now) - self._at).total_seconds(), 1),
        )
        try:
            _, failure = alerts.tell(self._night.uri, self._night.run, [alert], self._config.alerts)
        except MrkdError as error:  # sent again at the next look; the night goes on
            log.warning("late_not_told run=%s reason=%s", self._night.run, error)
            return
        if failure:
            log.warning("late_not_sent run=%s reason=%s", self._night.run, failure)
        self._sent = True


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
