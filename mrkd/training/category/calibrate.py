"""A new model's held-out scores of its own good images, and its thresholds.

Cell Gaussians know every image: each is scored by those of the other folds. A student knows the
images that it was trained on: their scores are moved to mean and spread of the held-out ones, in
which they differ little (tests/bench/LOG.md), so that all images calibrate.

An image far above all others may be a defect that nobody saw; its map is kept for review.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrkd import seeds
from mrkd.config import FitConfig, RowsConfig
from mrkd.model.artefact import Calibration
from mrkd.model.calibration import calibrate, threshold_at
from mrkd.model.cell_gaussian import GRIDS, SCORED
from mrkd.model.detector import Detector
from mrkd.model.ensemble import FINE, Ensemble
from mrkd.model.feature_cache import TeacherFeatures
from mrkd.model.feature_pairs import inside
from mrkd.model.good_ranges import MAP_MEAN, look_of
from mrkd.model.inference import Scored, score_images
from mrkd.model.tails import tail_limit
from mrkd.storage import schema
from mrkd.training.category.groups import Labels, Split
from mrkd.training.category.split_images import DecodedImages
from mrkd.training.fit import CrossFit

MAX_SUSPECTS = 48
"""Suspects, the highest first, whose maps are stored."""

_SUSPECT_RATE = 0.1
"""Expected number of good images that are taken for suspects, in a training of any size."""
MAX_SHIFT = 0.1
"""Share of images above the threshold of folds that cut groups, from which on a note is stored."""

Floats = NDArray[np.float32]

_ROWS = RowsConfig()
TRAINING_SCORES = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("side", pa.string(), nullable=False),
        pa.field("group", pa.int32(), nullable=False),
        pa.field("fold", pa.int32(), nullable=False),
        pa.field("image_height", pa.int32(), nullable=False),
        pa.field("image_width", pa.int32(), nullable=False),
        pa.field("image_score", pa.float32(), nullable=False),
        pa.field("is_anomalous", pa.bool_(), nullable=False),
        pa.field("is_suspect", pa.bool_(), nullable=False),
        *(schema.SCORES.field(name) for name in schema.MAP_COLUMNS),
    ]
)
"""Rows of a version's `training_scores.parquet`; maps as a night's, of the suspects alone."""


@dataclass(frozen=True)
class GoodScores:
    """A model's scores of its own good images.

    Args:
        calibration: thresholds.
        table: one row an image (`TRAINING_SCORES`).
        num_suspects: number of images that lie far above all others.
    """

    calibration: Calibration
    table: pa.Table
    num_suspects: int


def score_good(
    model: Detector,
    images: DecodedImages,
    split: Split,
    config: FitConfig,
    *,
    cross: CrossFit | None = None,
) -> GoodScores:
    """Scores good images by the path that scores a night, and calibrates.

    Args:
        model: in eval mode, on the device to score on; an ensemble's scales are set here.
        images: the category's good images.
        split: their groups, folds and sides.
        config: configuration of the training.
        cross: an ensemble's cells. Without folds, as in a search's trials, they know the training
            side alone, and held-out images alone are scored.

    Raises:
        CategoryError: a score is not finite.
    """
    note = ""
    if cross is not None and cross.has_folds and isinstance(model, Ensemble):
        parts = FoldScorers(
            images, [(cross.without(n), np.flatnonzero(split.folds == n)) for n in cross.folds]
        )
        _set_map_scales(model, parts, split, cross.features)
        _, peaks, means, raw = _scored(parts)
        calibrating = split.calibrating
        held_out = torch.from_numpy(np.isin(calibrating, split.held_out))
        model.set_score_scales(torch.from_numpy(raw[calibrating]), held_out=held_out)
        if model.student is not None:
            raw[:, 0], peaks, means = (_as_held_out(v, split) for v in (raw[:, 0], peaks, means))
        scores = model.joint_score(torch.from_numpy(raw).to(model.score_mean.device)).cpu().numpy()
        if _may_shift(model, split, config):
            note = _shift_note(_shift(model, raw, split, cross.features, config), len(split.groups))
    else:
        # In a search's trial the cells know the training side alone.
        numbers = split.held_out if cross else np.arange(len(images))
        parts = FoldScorers(images, [(model, numbers)])
        scores, peaks, means, _ = _scored(parts)
        calibrating = split.on("calibration")
    calibration = calibrate(
        scores[calibrating],
        peaks[calibrating],
        [statistics for n in calibrating if (statistics := images.decoded[n].statistics)],
        false_call_rate=config.false_call_rate,
        num_groups=len(np.unique(split.groups.labels[calibrating])),
        note=note,
        looks=_looks(images, means, calibrating),
    )
    suspects = _suspects(scores, parts.numbers)
    maps = {n: scored.reduced_map for n, scored in parts.scored(suspects[:MAX_SUSPECTS])}
    table = _table(parts, split, scores, calibration.threshold, maps, suspects)
    return GoodScores(calibration, table, len(suspects))


@dataclass(frozen=True)
class FoldScorers:
    """Detectors, each with the numbers of the images that it scores."""

    images: DecodedImages
    own: Sequence[tuple[Detector, Labels]]

    @property
    def numbers(self) -> Labels:
        """Numbers of all images that are scored, rising."""
        return np.sort(np.concatenate([numbers for _, numbers in self.own]))

    def scored(self, wanted: Labels | None = None) -> Iterator[tuple[int, Scored]]:
        """Each image's number and result, or those of the wanted ones."""
        for model, numbers in self.own:
            chosen = numbers if wanted is None else numbers[np.isin(numbers, wanted)]
            queue = (self.images.decoded[n] for n in chosen)
            found = score_images(model, queue, map_size=_ROWS.map_size)
            yield from zip(chosen.tolist(), found, strict=True)


def _looks(images: DecodedImages, means: Floats, calibrating: Labels) -> list[dict[str, float]]:
    """The look of each image; the mean of its map of those alone that the model did not know."""
    maps = {n: {MAP_MEAN: float(means[n])} for n in calibrating.tolist()}
    return [look_of(one) | maps.get(n, {}) for n, one in enumerate(images.decoded)]


def _scored(parts: FoldScorers) -> tuple[Floats, Floats, Floats, Floats]:
    """Scores, peaks and means of maps, `[N]`, and raw scores, `[N, S]`; NaN where not scored."""
    scores, peaks, means = np.full((3, len(parts.images)), np.nan, np.float32)
    raw: dict[int, Floats] = {}
    for n, scored in parts.scored():
        scores[n], peaks[n], means[n] = scored.image_score, scored.peak, scored.map_mean
        raw[n] = scored.raw_scores
    table = np.full((len(parts.images), len(next(iter(raw.values())))), np.nan, np.float32)
    for n, row in raw.items():
        table[n] = row
    return scores, peaks, means, table


@torch.inference_mode()
def _set_map_scales(
    model: Ensemble, parts: FoldScorers, split: Split, features: TeacherFeatures
) -> None:
    """Mean and spread of each shown map over pixels of good images that its detector lacked."""
    images = parts.images

    def scale(maps: Iterator[Tensor]) -> tuple[float, float]:
        count, total, square = 0, 0.0, 0.0
        for map_B1HW in maps:
            pixels = inside(map_B1HW, model.pixel_roi).double()
            count += pixels.numel()
            total, square = total + float(pixels.sum()), square + float(pixels.square().sum())
        mean = total / count
        return mean, max(square / count - mean * mean, 0.0) ** 0.5

    def fine() -> Iterator[Tensor]:
        for other, numbers in parts.own:
            assert isinstance(other, Ensemble)
            for levels in features.of(images.squares_of(numbers)).batches():
                yield other.smoothed(FINE, other.grid(FINE)(other.normalise(levels)))

    scales = [scale(fine())]
    student = model.student
    if student is not None:
        held_out = features.of(images.squares_of(split.held_out))
        own = (student.maps(student.pairs(levels)) for levels in held_out.batches())
        scales = [scale(own), *scales]
    mean, std = torch.tensor(scales).unbind(1)
    model.set_map_scales(mean, std)


def _as_held_out(values: Floats, split: Split) -> Floats:
    """Values, those of a student's own images moved to mean and spread of the others, `[N]`."""
    moved, trained, held_out = values.copy(), split.on("train"), values[split.held_out]
    own = values[trained]
    scale = held_out.std() / max(float(own.std()), 1e-6)
    moved[trained] = (own - own.mean()) * scale + held_out.mean()
    return moved


def _may_shift(model: Ensemble, split: Split, config: FitConfig) -> bool:
    """Whether groups have several images each, and are too few to vouch for the rate."""
    number = len(split.groups)
    are_large = 2 * number <= len(split.groups.labels)
    return are_large and (number + 1) * config.false_call_rate < 1 and not model.config.tiles


@torch.inference_mode()
def _shift(
    model: Ensemble, raw: Floats, split: Split, features: TeacherFeatures, config: FitConfig
) -> float:
    """Share of images above the threshold that random folds give, which cut groups.

    A share far above the rate that was asked for shows that groups differ more than their images:
    tomorrow's group may lie as far off.
    """
    first, images = len(model.detectors) - len(SCORED), split.calibrating
    rng = seeds.stream(config.seed, "folds")
    folds = split.folds[rng.permutation(len(split.folds))]
    cells = Ensemble(model.config, model.teacher, model.roi).to(model.score_mean.device).eval()
    scored = [grid for grid in GRIDS if grid.name in SCORED]
    cross = CrossFit(cells, features, folds, seed=config.seed, grids=scored)
    by_groups, by_chance = raw[:, first : first + len(SCORED)], np.empty((len(raw), len(SCORED)))
    for fold in cross.folds:
        other, rows = cross.without(fold), np.flatnonzero(folds == fold)
        found = [other.cell_scores(levels) for levels in features.of(rows).batches()]
        by_chance[rows] = torch.cat(found).cpu().numpy()
    mean, std = (t[first:].cpu().numpy() for t in (model.score_mean, model.score_std))
    groups, chance = (((own - mean) / std).sum(1)[images] for own in (by_groups, by_chance))
    return float((groups > threshold_at(chance, config.false_call_rate)).mean())


def _shift_note(shift: float, num_groups: int) -> str:
    if shift < MAX_SHIFT:
        return ""
    return (
        f"{num_groups} groups of good images differ more than the images within them: held out by "
        f"groups, {shift:.0%} lie above the threshold that images held out at random would give, "
        "and tomorrow's may lie as far off; look at the first night, and set the threshold by it "
        "(mrkd models calibrate)"
    )


def _suspects(scores: Floats, scored: Labels) -> Labels:
    """Images farther above all others than expected by chance, the highest first."""
    rising = np.sort(scores[scored].astype(np.float64))
    limit = tail_limit(rising, _SUSPECT_RATE / len(rising))
    above = scored[scores[scored] > limit]
    return np.asarray(above[np.argsort(-scores[above], kind="stable")], np.int64)


def _table(
    parts: FoldScorers,
    split: Split,
    scores: Floats,
    threshold: float,
    maps: dict[int, Floats],
    suspects: Labels,
) -> pa.Table:
    rows = []
    for n in parts.numbers.tolist():
        one, decoded = parts.images.good[n], parts.images.decoded[n]
        assert decoded.geometry is not None
        height, width = decoded.geometry.original
        row = {
            "image_uri": one.sample.image_uri,
            "sha256": one.digest,
            "side": split.sides[n],
            "group": int(split.groups.labels[n]),
            "fold": int(split.folds[n]),
            "image_height": height,
            "image_width": width,
            "image_score": float(scores[n]),
            "is_anomalous": bool(scores[n] > threshold),
            "is_suspect": n in suspects,
        }
        rows.append(row | (schema.encode_map(maps[n], _ROWS.map) if n in maps else {}))
    return pa.Table.from_pylist(rows, schema=TRAINING_SCORES)
