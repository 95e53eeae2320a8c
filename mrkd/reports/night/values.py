"""What the page of a night shows, as plain values: nothing is read after this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mrkd.nights.drift import Compared, Lights
from mrkd.nights.reviews.error_rates import Reviewed
from mrkd.reports.kit.values import ImageError, Model, Picture


@dataclass(frozen=True)
class ShownImage:
    """An image of the night as a card shows it.

    Args:
        picture: the image, its map and its regions.
        category: of it.
        line: that it came from; empty where there are none.
        threshold: that decided it.
        pixel_threshold: where heat is full.
        margin: score less threshold, in spreads of the category's good parts.
    """

    picture: Picture
    category: str
    line: str
    threshold: float
    pixel_threshold: float
    margin: float


@dataclass(frozen=True)
class ErrorKind:
    """Images without a score, for one reason.

    Args:
        kind: of `schema.ERROR_KINDS`.
        count: how many.
        categories: how many of each category, the most first.
        examples: the first of them.
    """

    kind: str
    count: int
    categories: Mapping[str, int]
    examples: tuple[ImageError, ...]


@dataclass(frozen=True)
class Scoring:
    """Which model scored a category.

    Args:
        category: its name.
        model: None where it has none, or where its files cannot be read.
        gap: why there is no `model`, one line; else empty.
    """

    category: str
    model: Model | None
    gap: str = ""


@dataclass(frozen=True)
class Start:
    """One start of the night, as its record tells.

    Args:
        revision: that it worked on.
        started_at: UTC, ISO 8601.
        finished_at: empty where it is not known.
        images: whose rows it stored.
        images_per_s: while shards were under way, without listing and Ray's start.
        seconds: by stage, summed over all workers.
        requests: to S3, by verb, and `retried` and `slowed`; empty where nothing was asked.
        peak_rss_bytes: of its largest process; None where it is not known.
        attempts: passes over the shards that it took.
    """

    revision: int
    started_at: str
    finished_at: str
    images: int
    images_per_s: float
    seconds: Mapping[str, float]
    requests: Mapping[str, int]
    peak_rss_bytes: int | None
    attempts: int


@dataclass(frozen=True)
class PartVerdict:
    """One part that is not good: its worst view, and which views are missing."""

    category: str
    part: str
    verdict: str
    reason: str
    image_uri: str
    missing_views: tuple[str, ...]


@dataclass(frozen=True)
class Parts:
    """Verdicts by part.

    Args:
        counts: of each category the numbers of OK, NOK and ERROR parts.
        missing: parts that lack a view.
        shown: the first that are not good.
    """

    counts: Mapping[str, tuple[int, int, int]]
    missing: int
    shown: tuple[PartVerdict, ...]


@dataclass(frozen=True)
class GoldenImage:
    """A reference part as this night's start saw it."""

    category: str
    label: str
    image_uri: str
    image_score: float | None
    threshold: float
    low: float | None
    high: float | None
    problem: str


@dataclass(frozen=True)
class Golden:
    """The reference parts that are scored before a night.

    Args:
        state: passed or failed.
        forced: the night went on although it failed.
        images: all of them.
        without: categories of the night that have no reference part.
    """

    state: str
    forced: bool
    images: tuple[GoldenImage, ...]
    without: tuple[str, ...]


@dataclass(frozen=True)
class NightData:
    """Everything the page of a night shows.

    Args:
        run: of the night.
        workspace: URI of the workspace that holds it.
        archive: what was scored, as the config names it.
        closed_at: of its newest revision, UTC, ISO 8601.
        revisions: how many were closed.
        max_error_share: that the config allows.
        compared: every category and line, against the nights before.
        lights: of those that sent images.
        nights: names of the nights before it, the newest last.
        without_profile: names of nights that are not counted among them.
        scorings: of every category, by name.
        highest: called defective, each category's furthest above its threshold first.
        borderline: the nearest to their threshold.
        audit: good ones drawn at random.
        errors: by kind, the most frequent first.
        starts: empty where the night left no record.
        parts: None where images name no parts.
        golden: None where there are no reference parts.
        gaps: one line for each file that could not be read.
        num_degraded: scored images without a map, as the night was late.
        reviewed: what people say of its images, by category; empty: nothing yet.
        config: the resolved config.
    """

    run: str
    workspace: str
    archive: str
    closed_at: str
    revisions: int
    max_error_share: float
    compared: tuple[Compared, ...]
    lights: Mapping[tuple[str, str], Lights]
    nights: tuple[tuple[str, str], ...] = ()
    without_profile: tuple[str, ...] = ()
    scorings: tuple[Scoring, ...] = ()
    highest: tuple[ShownImage, ...] = ()
    borderline: tuple[ShownImage, ...] = ()
    audit: tuple[ShownImage, ...] = ()
    errors: tuple[ErrorKind, ...] = ()
    starts: tuple[Start, ...] = ()
    parts: Parts | None = None
    golden: Golden | None = None
    gaps: tuple[str, ...] = ()
    num_degraded: int = 0
    reviewed: tuple[Reviewed, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
