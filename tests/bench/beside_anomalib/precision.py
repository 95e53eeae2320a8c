"""How far scores in the fast precision lie from those in float32, on real images; mrkd alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from mrkd.data.preprocess import Decoded
from mrkd.model.inference import BATCH_SIZE, score_images
from mrkd.model.mrkd import MRKD
from tests.bench.beside_anomalib.ours import MAP_SIZE, OURS, Figures, Trainings
from tests.bench.beside_anomalib.pictures import evenly

BOUND = 1e-3
"""Of a score's difference, as a share of the range of the float32 scores."""
_PROBED = 4
_PRECISIONS = (torch.float32, torch.float16)


def precision_figures(
    trainings: Trainings, *, num_images: int, seconds: float
) -> Iterator[Figures]:
    """Of each arm the largest difference, as a share of the range of its float32 scores.

    Args:
        trainings: of the arms, on the category whose other images are scored.
        num_images: that are asked for; fewer where the category has fewer, or they do not fit.
        seconds: of an arm's scoring in both precisions.
    """
    unseen = trainings.category.unseen
    for arm in OURS:
        model = trainings[arm].model
        each = probe(model, evenly(unseen, _PROBED))
        count = whole_batches(min(num_images, len(unseen), int(seconds / each)))
        decoded = evenly(unseen, count)
        scores, spent = zip(*(scored(model, decoded, p) for p in _PRECISIONS), strict=True)
        largest = float(np.abs(scores[0] - scores[1]).max() / np.ptp(scores[0]))
        yield {
            "figure": "scores in float16",
            "arm": arm,
            "images": len(decoded),
            "images_asked_for": num_images,
            "reckoned_s_per_image": each,
            "largest_difference": largest,
            "within_0.001": largest <= BOUND,
            "float32_images_per_s": len(decoded) / spent[0],
            "float16_images_per_s": len(decoded) / spent[1],
            "training_steps": trainings.steps,
        }


def probe(model: MRKD, decoded: Sequence[Decoded]) -> float:
    """Seconds an image in both precisions together, of a few; the first pass does not count."""
    total = 0.0
    for precision in _PRECISIONS:
        scored(model, decoded[:1], precision)
        total += scored(model, decoded, precision)[1]
    return total / len(decoded)


def whole_batches(count: int) -> int:
    """So many images or fewer that no pass is padded, and that there is a range of scores."""
    size = BATCH_SIZE if count >= BATCH_SIZE else _PROBED
    return max(_PROBED, count // size * size)


def scored(
    model: MRKD, decoded: Sequence[Decoded], precision: torch.dtype
) -> tuple[np.ndarray, float]:
    """Scores `[N]` and the seconds that they took."""
    began = time.perf_counter()
    size = min(BATCH_SIZE, len(decoded))
    options = {"batch_size": size, "map_size": MAP_SIZE}
    found = list(score_images(model, decoded, **options, precision=precision))
    return np.array([one.image_score for one in found]), time.perf_counter() - began
