"""The usual range of volume, NOK rate and error rate, from earlier nights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mrkd.nights.drift.profile import Profile, ProfileGroup

MIN_NIGHTS = 5
"""Fewer say nothing of what is usual."""


@dataclass(frozen=True)
class UsualRange:
    """What at least nine of ten nights keep to.

    Args:
        median: median of the nights.
        low: the night at their 5 % quantile, or next below; under 21 nights the lowest.
        high: the night at their 95 % quantile, or next above; under 21 nights the highest.
        num_nights: number of nights.
    """

    median: float
    low: float
    high: float
    num_nights: int

    @classmethod
    def of(cls, values: Iterable[float]) -> UsualRange | None:
        """The band of these nights; None where there are fewer than `MIN_NIGHTS`."""
        found = np.array(list(values), np.float64)
        if len(found) < MIN_NIGHTS:
            return None
        # Between two nights of five it would leave out two of the five.
        low = float(np.quantile(found, 0.05, method="lower"))
        high = float(np.quantile(found, 0.95, method="higher"))
        return cls(float(np.median(found)), low, high, len(found))

    def side(self, value: float) -> int:
        """-1 below the band, 1 above it, 0 inside."""
        return int(value > self.high) - int(value < self.low)


@dataclass(frozen=True)
class Compared:
    """One category and line, tonight and before.

    Args:
        category: category of the images.
        line: empty where there are none.
        tonight: None where nothing came.
        before: the group of each earlier night in which something came, the newest last.
        runs: names of these nights.
        num_nights: number of earlier nights.
        volume: band of the number of images, over nights in which some came.
        nok_rate: band of the NOK rate, over nights that the same model and calibration decided.
        error_rate: band of the error rate.
    """

    category: str
    line: str
    tonight: ProfileGroup | None
    before: tuple[ProfileGroup, ...]
    runs: tuple[str, ...]
    num_nights: int
    volume: UsualRange | None
    nok_rate: UsualRange | None
    error_rate: UsualRange | None

    @property
    def name(self) -> str:
        """Category and line in words."""
        return f"{self.category}, line {self.line}" if self.line else self.category

    @property
    def silent(self) -> bool:
        """Nothing came, although in half of the earlier nights or more something did."""
        often = self.num_nights >= MIN_NIGHTS and 2 * len(self.before) >= self.num_nights
        return self.tonight is None and often


def compare(tonight: Profile, nights: Sequence[Profile]) -> list[Compared]:
    """Every category and line that sent images tonight, or usually does; sorted.

    Of `nights`, those before it, the newest is last.
    """
    now, rows = tonight.by_key, []
    by_run = {night.run: night.by_key for night in nights}
    for key in sorted(set(now).union(*by_run.values())):
        groups = {run: own[key] for run, own in by_run.items() if key in own}
        group, before = now.get(key), tuple(groups.values())
        model = group.model if group else before[-1].model
        alike = [one.nok_rate for one in before if one.model == model]
        row = Compared(
            *key,
            tonight=group,
            before=before,
            runs=tuple(groups),
            num_nights=len(nights),
            volume=UsualRange.of(one.num_images for one in before),
            nok_rate=UsualRange.of(rate for rate in alike if rate is not None),
            error_rate=UsualRange.of(one.error_rate for one in before),
        )
        if row.tonight or row.silent:
            rows.append(row)
    return rows
