"""Values that several pages show: pictures, models, metric rows, losses."""

from __future__ import annotations

from dataclasses import dataclass

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
class Measure:
    """A figure with its 95 % interval, as far as they are known."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


UNKNOWN = Measure()


@dataclass(frozen=True)
class Losses:
    """The losses of a training, one value an epoch.

    Args:
        epochs: int64 `[n]`, n >= 1, rising.
        training: float64 `[n]`; NaN where it was no number.
        validation: float64 `[n]`, on good images that no step used; the weights of the epoch with
            the least are the model's.
    """

    epochs: NDArray[np.int64]
    training: NDArray[np.float64]
    validation: NDArray[np.float64]
