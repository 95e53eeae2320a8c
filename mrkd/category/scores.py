"""A new model's scores of the very images that made it.

Those on the calibration side give its thresholds. Those it was trained on ought to lie below them:
one that does not may be a defect that nobody saw, and its map is kept to be looked at.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mrkd import schema
from mrkd.calibration import calibrate
from mrkd.category.images import DecodedImages
from mrkd.checkpoint import Calibration
from mrkd.config import FitConfig, RowsConfig
from mrkd.model import Detector
from mrkd.scoring import score_images

MAX_SUSPECTS = 48
"""Images above the threshold, the highest first, whose maps are stored."""

_ROWS = RowsConfig()
TRAINING_SCORES = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("side", pa.string(), nullable=False),
        pa.field("image_height", pa.int32(), nullable=False),
        pa.field("image_width", pa.int32(), nullable=False),
        pa.field("image_score", pa.float32(), nullable=False),
        pa.field("is_anomalous", pa.bool_(), nullable=False),
        *(schema.SCORES.field(name) for name in schema.MAP_COLUMNS),
    ]
)
"""Rows of a version's `training_scores.parquet`; maps as a night's, of the suspects alone."""


@dataclass(frozen=True)
class GoodScores:
    """What a model says of its own good images.

    Args:
        calibration: thresholds from the held-out ones.
        table: one row an image (`TRAINING_SCORES`).
        num_suspects: images that were trained on and lie above the threshold.
    """

    calibration: Calibration
    table: pa.Table
    num_suspects: int


def score_good(model: Detector, images: DecodedImages, config: FitConfig) -> GoodScores:
    """Scores every good image by the path that scores a night, and calibrates.

    Raises:
        CategoryError: a score is not finite.
    """
    scores, maxima = np.zeros((2, len(images.good)), np.float32)
    highest: list[tuple[float, int, NDArray[np.float32]]] = []
    found = score_images(model, images.decoded, map_size=_ROWS.map_size)
    for n, scored in enumerate(found):
        scores[n], maxima[n] = scored.image_score, scored.peak
        # The threshold is not known yet: the highest are kept, and what lies below it is dropped.
        keep = heapq.heappush if len(highest) < MAX_SUSPECTS else heapq.heappushpop
        keep(highest, (scored.image_score, n, scored.reduced_map))
    held_out = images.on("calibration")
    calibration = calibrate(
        scores[held_out],
        maxima[held_out],
        [image.statistics for image in images.decoded[held_out] if image.statistics],
        false_call_rate=config.false_call_rate,
    )
    above = scores > calibration.threshold
    maps = {n: reduced for _, n, reduced in highest if above[n]}
    num_suspects = int(above[images.on("train")].sum())
    return GoodScores(calibration, _table(images, scores, above, maps), num_suspects)


def _table(
    images: DecodedImages,
    scores: NDArray[np.float32],
    above: NDArray[np.bool_],
    maps: dict[int, NDArray[np.float32]],
) -> pa.Table:
    rows = []
    for n, (one, decoded) in enumerate(zip(images.good, images.decoded, strict=True)):
        assert decoded.geometry is not None
        height, width = decoded.geometry.original
        row = {
            "image_uri": one.sample.image_uri,
            "sha256": one.digest,
            "side": one.side,
            "image_height": height,
            "image_width": width,
            "image_score": float(scores[n]),
            "is_anomalous": bool(above[n]),
        }
        rows.append(row | (schema.encode_map(maps[n], _ROWS.map) if n in maps else {}))
    return pa.Table.from_pylist(rows, schema=TRAINING_SCORES)
