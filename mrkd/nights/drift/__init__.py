"""Profiles of nights: a few numbers of each, stored so that later nights are compared with them.

`store` measures a closed night and puts `profile.parquet` into its folder; `earlier` reads those of
the nights before. `compare` says what is usual, `judge` whether camera, scores or decisions drift.
"""

from __future__ import annotations

from mrkd.nights.drift.earlier_nights import NUM_NIGHTS, Earlier, earlier
from mrkd.nights.drift.lights import CalibrationImages, Finding, Light, Lights, judge
from mrkd.nights.drift.measure import current, measure, store
from mrkd.nights.drift.profile import Profile, ProfileGroup, quantiles, read
from mrkd.nights.drift.usual_range import MIN_NIGHTS, Compared, UsualRange, compare

__all__ = [
    "MIN_NIGHTS",
    "NUM_NIGHTS",
    "CalibrationImages",
    "Compared",
    "Earlier",
    "Finding",
    "Light",
    "Lights",
    "Profile",
    "ProfileGroup",
    "UsualRange",
    "compare",
    "current",
    "earlier",
    "judge",
    "measure",
    "quantiles",
    "read",
    "store",
]
