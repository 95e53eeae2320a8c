"""What the page of a study shows, as plain values: nothing is read after this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrkd.evaluation.published_results import Figure
from mrkd.reports.kit.values import Box, LeakPair, Measure, MetricRow

Place = str | None
"""A category, or None: the mean over all."""


@dataclass(frozen=True)
class Difference:
    """An arm's figure less that of its table's base, paired over images.

    Args:
        measure: with its 95 % interval.
        by_seed: with each seed by itself.
        words: what it says.
    """

    measure: Measure
    by_seed: tuple[float, ...]
    words: str


@dataclass(frozen=True)
class ArmData:
    """A row of a table.

    Args:
        name: of the arm.
        figures: by place, then by metric and defect; means over seeds.
        differences: the same, to the base.
        seconds: of a run on a category, mean.
        model_bytes: of a model without its teacher, mean.
        steps: of each category, the steps at which the loss is known.
        losses: of each category, the training loss there, mean over seeds.
        plateau: share by which the loss fell over the last tenth of the steps, mean; None where
            nothing is trained by steps.
        published: figures of the same arm by place and metric.
        differs: why these are not comparable; empty: they are.
    """

    name: str
    figures: Mapping[Place, Mapping[tuple[str, str | None], MetricRow]]
    differences: Mapping[Place, Mapping[tuple[str, str | None], Difference]]
    seconds: float
    model_bytes: float
    steps: Mapping[str, Sequence[float]]
    losses: Mapping[str, Sequence[float]]
    plateau: float | None
    published: Mapping[Place, Mapping[str, Figure]] = field(default_factory=dict)
    differs: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableData:
    """A table of arms.

    Args:
        name: of the ablation, or `results`.
        title: for people.
        paper: which table of the paper it repeats; empty: none.
        base: name of the arm that others are compared with.
        arms: its rows.
        quoted: published figures of arms that the table has not.
    """

    name: str
    title: str
    paper: str
    base: str
    arms: tuple[ArmData, ...]
    quoted: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class ShownMap:
    """What one arm says of a picture.

    Args:
        arm: its name.
        image_score: of the picture.
        is_anomalous: by the arm's threshold.
        anomaly_map: float32 `[h, w]` as stored.
        pixel_threshold: of the arm.
        usual: of its maps' pixels, where heat begins.
    """

    arm: str
    image_score: float
    is_anomalous: bool
    anomaly_map: NDArray[np.float32]
    pixel_threshold: float
    usual: float


@dataclass(frozen=True)
class ShownTable:
    """A picture beside its ground truth and the maps of several arms.

    Args:
        image_uri: as listed.
        defect: kind of defect.
        place: best, median or worst of its kind.
        aupro: of the base's map on this picture alone; None without a mask.
        height: of the original, in pixels.
        width: of the original, in pixels.
        pixels: uint8 `[h, w, 3]` thumbnail; None where it is gone.
        gt_mask: bool; None where none is known.
        map_box: where a map lies over the original.
        maps: of the arms.
    """

    image_uri: str
    defect: str
    place: str
    aupro: float | None
    height: int
    width: int
    pixels: NDArray[np.uint8] | None
    gt_mask: NDArray[np.bool_] | None
    map_box: Box
    maps: tuple[ShownMap, ...]


@dataclass(frozen=True)
class StudyCategory:
    """One category of the page.

    Args:
        name: of the category.
        num_train: images of its training part.
        num_judged: images that judge.
        shown: pictures.
        operating: rows of `schema.OPERATING`.
        rare: rows of `schema.METRICS`, of test sets with as few defects as the line has.
        leaks: pairs of images of one part, the most alike first.
        num_leaks: how many there are in all; None where nobody looked.
    """

    name: str
    num_train: int
    num_judged: int
    shown: tuple[ShownTable, ...]
    operating: tuple[Mapping[str, Any], ...]
    rare: tuple[Mapping[str, Any], ...] = ()
    leaks: tuple[LeakPair, ...] = ()
    num_leaks: int | None = None


@dataclass(frozen=True)
class StudyData:
    """Everything that the page of a study shows.

    Args:
        run: of the evaluation.
        protocol: that it follows.
        root: URI of the images.
        part: of the labelled images.
        num_seeds: of each training.
        finished_at: UTC, ISO 8601.
        teachers: names of those behind the models.
        tables: in order.
        categories: sorted by name.
        failures: of runs without figures: category, arm, seed and why.
        config: the resolved config.
    """

    run: str
    protocol: str
    root: str
    part: str
    num_seeds: int
    finished_at: str
    teachers: tuple[str, ...]
    tables: tuple[TableData, ...]
    categories: tuple[StudyCategory, ...]
    failures: tuple[tuple[str, str, int, str], ...]
    config: Mapping[str, Any]
