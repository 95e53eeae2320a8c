"""What the page of a comparison shows, as plain values: nothing is read after this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mrkd.nights.compare_nights import CategoryChange
from mrkd.reports.kit.values import Picture


@dataclass(frozen=True)
class Seen:
    """An image as one of the nights saw it.

    Args:
        picture: with that night's map and regions.
        verdict: OK or NOK.
        threshold: that decided it.
        pixel_threshold: where heat is full.
    """

    picture: Picture
    verdict: str
    threshold: float
    pixel_threshold: float


@dataclass(frozen=True)
class Pair:
    """An image that both nights scored."""

    image_uri: str
    category: str
    rank_a: float
    rank_b: float
    a: Seen
    b: Seen


@dataclass(frozen=True)
class ComparisonData:
    """Everything the page of a comparison shows.

    Args:
        run_a: name of the first night.
        run_b: name of the second.
        counts: numbers of images over all categories (`Comparison.counts`).
        categories: by name.
        worst: the most differently judged first.
        teachers: of the models of both nights.
        gaps: one line for each thing that could not be read.
        config: the resolved config of each night, by its name.
    """

    run_a: str
    run_b: str
    counts: Mapping[str, int]
    categories: tuple[CategoryChange, ...]
    worst: tuple[Pair, ...] = ()
    teachers: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
