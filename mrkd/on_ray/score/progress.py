"""Progress of a night: its images by state, its rate and the time left."""

from __future__ import annotations

import time
from collections.abc import Mapping

from mrkd.on_ray.progress import Figures, Progress, seconds

_GAUGES = (
    "mrkd_night_images",
    "Images of a night's revision by state.",
    "mrkd_night_eta_seconds",
    "Seconds left of a night.",
)


class NightProgress(Progress):
    """Progress of a revision of so many images; on a terminal a bar."""

    def __init__(self, run: str, num_images: int) -> None:
        super().__init__(run, _GAUGES, bar=True)
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
            f"night done={done} of={self._num_images} rate={rate:.1f}/s eta={seconds(eta_s)} "
            f"errors={errors}"
        )
        return Figures({"done": done, "left": left, "errors": errors}, eta_s, line)
