"""What the page of an evaluation shows, as plain values: nothing is read after this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrkd.reports.kit.values import ImageError, LeakPair, MetricRow, Model, Picture


@dataclass(frozen=True)
class Category:
    """One category of the page.

    Args:
        name: of the category.
        failure: why there are no figures, one line; empty where there are.
        model: that scored it; None for a failed category.
        metrics: rows of `metrics.parquet`.
        scores: float32 `[n]` of the scored images; the arrays below are in the same order.
        gt_labels: int8 `[n]`, 0 good, 1 anomalous.
        headline: bool `[n]`, False for images that are reported with their own defect alone.
        defects: object `[n]`, kind of defect of each.
        errors: images that could not be scored.
        highest: the highest-scored images, the highest first.
        nearest: those nearest the threshold, the nearest first.
        leaks: pairs of pictures of one part, the most alike first.
        num_leaks: how many there are in all; None where nobody looked.
        operating: rows of `schema.OPERATING`.
    """

    name: str
    failure: str = ""
    model: Model | None = None
    metrics: tuple[MetricRow, ...] = ()
    scores: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    gt_labels: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))
    headline: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    defects: NDArray[np.object_] = field(default_factory=lambda: np.zeros(0, np.object_))
    errors: tuple[ImageError, ...] = ()
    highest: tuple[Picture, ...] = ()
    nearest: tuple[Picture, ...] = ()
    leaks: tuple[LeakPair, ...] = ()
    num_leaks: int | None = None
    operating: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Archive:
    """What a night said about an archive that nobody labelled.

    Args:
        run: of the night.
        counts: per category the numbers of OK, NOK and ERROR images.
        errors: the first images that could not be scored.
        num_errors: per kind, how many there are in all.
    """

    run: str
    counts: Mapping[str, tuple[int, int, int]]
    errors: tuple[ImageError, ...]
    num_errors: Mapping[str, int]


@dataclass(frozen=True)
class PageData:
    """Everything the page of an evaluation shows.

    Args:
        run: of the evaluation.
        scored_at: when the images were scored, as stored; empty where unknown.
        part: which part of the labelled images was used.
        root: URI of the labelled images.
        categories: sorted by name.
        config: the resolved config.
        archive: a night's rows beside the evaluation, if any.
    """

    run: str
    scored_at: str
    part: str
    root: str
    categories: tuple[Category, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    archive: Archive | None = None
