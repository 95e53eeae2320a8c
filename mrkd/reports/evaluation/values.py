"""What the page of an evaluation shows, as plain values: nothing is read after this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Box:
    """A rectangle in original pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Picture:
    """One scored image as a card shows it.

    Args:
        image_uri: as listed.
        image_score: raw, by the model's rule.
        p_value: share of held-out good images that score at least as high; None where not stored.
        is_anomalous: the decision.
        height: of the original, in pixels.
        width: of the original, in pixels.
        gt_label: 0 good, 1 anomalous, None unknown.
        defect: kind of defect, `good` where there is none.
        headline: False where people were unsure of its label.
        pixels: uint8 `[h, w, 3]` RGB thumbnail; None where the image cannot be read any more.
        anomaly_map: float32 `[h, w]` as stored; None where none is.
        map_box: where the map lies over the original; larger than it where borders were added.
        regions: found regions, the largest peak first.
        gt_mask: bool `[h, w]` over the whole original, at any size; None where none is known.
    """

    image_uri: str
    image_score: float
    p_value: float | None
    is_anomalous: bool
    height: int
    width: int
    gt_label: int | None = None
    defect: str = ""
    headline: bool = True
    pixels: NDArray[np.uint8] | None = None
    anomaly_map: NDArray[np.float32] | None = None
    map_box: Box | None = None
    regions: tuple[Box, ...] = ()
    gt_mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class ImageError:
    """One image that could not be scored."""

    image_uri: str
    kind: str
    message: str


@dataclass(frozen=True)
class LeakPair:
    """A picture that judged, and one of the same part that trained; None where it is gone."""

    image_uri: str
    training_uri: str
    similarity: float
    pixels: NDArray[np.uint8] | None
    training_pixels: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Model:
    """Which model scored a category and what its threshold promises.

    Args:
        model_version: of the model.
        calibration: number of the calibration.
        teacher: name of the teacher; `random:` begins the name of one nobody trained.
        threshold: an image is anomalous strictly above it.
        pixel_threshold: pixels strictly above it form the regions.
        false_call_rate: share of good parts that was allowed to be called defective.
        supported_false_call_rate: the share that the number of groups vouches for.
        num_held_out: held-out good images behind the threshold.
        warning: one line where they are too few, else empty.
    """

    model_version: str
    calibration: int
    teacher: str
    threshold: float
    pixel_threshold: float
    false_call_rate: float
    supported_false_call_rate: float
    num_held_out: int
    warning: str = ""


@dataclass(frozen=True)
class MetricRow:
    """One row of `metrics.parquet`; `defect` None stands for all defects together."""

    metric: str
    defect: str | None
    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


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
