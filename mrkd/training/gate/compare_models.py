"""Scores of one or two models on the same images.

Each model takes an image by its own preprocessing and scores it as it would a night's. A synthetic
defect is drawn on the image as stored, so that models of different sizes see the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mrkd.data import preprocess, synthetic_defects
from mrkd.data.datasets import Sample
from mrkd.data.datasets.sample import place_of
from mrkd.data.preprocess import Decoded, Preprocessor
from mrkd.errors import CategoryError
from mrkd.evaluation import metrics
from mrkd.evaluation.metrics import Metric
from mrkd.model import inference
from mrkd.model.artefact.save_load import LoadedModel
from mrkd.model.detector import Detector
from mrkd.model.ensemble import Ensemble
from mrkd.storage.thread_map import in_threads

MIN_SHARED = 4
"""Held-out images that two models must have in common to be judged on those alone."""

# One seed for all: an image's defects stay the same, and figures of any two fleets compare.
_SEED = 0
# Images whose views are in memory at once: full batches, where every image can be read.
_CHUNK = inference.BATCH_SIZE


@dataclass(frozen=True)
class Rival:
    """A model that is measured.

    Args:
        loaded: the model.
        sides: side of each good image that it was made of, by the sha256 of the file: those on side
            `train` trained its student, and its cells, if it has some, know them all.
    """

    loaded: LoadedModel
    sides: Mapping[str, str]

    def held_out(self, digest: str) -> bool:
        """Whether an image is one of its good images that its student was not trained on."""
        return self.sides.get(digest, "train") != "train"

    def stranger_to(self, image: Decoded, digest: str) -> Detector:
        """The model as if its cells did not know an image; a model in tiles is left as it is."""
        model = self.loaded.model
        if not isinstance(model, Ensemble) or digest not in self.sides or model.config.tiles:
            return model
        assert image.pixels is not None
        pixels = torch.from_numpy(np.ascontiguousarray(image.pixels[None]))
        return model.unlearn(pixels.to(next(model.parameters()).device))


@dataclass(frozen=True)
class GateTrial:
    """Scores of one or two models on the same images, the challenger first.

    Args:
        part: part of the labelled images; empty where the defects are synthetic.
        num_shared: number of held-out images that both models have in common; None where there is
            one model, or labels.
        scores: float64 `[models, N]`, finite.
        labels: int64 `[N]`, 0 good, 1 anomalous; both are there.
        groups: `[N]`, what resamples draw as one: an image and its synthetic defects are.
        num_left_out: images that cannot be read, or that a model's region of interest does not fit.
    """

    part: Literal["val", "test", ""]
    num_shared: int | None
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    groups: Sequence[str | None]
    num_left_out: int

    @property
    def num_anomalous(self) -> int:
        """Images with a defect, real or synthetic."""
        return int(self.labels.sum())

    @property
    def num_good(self) -> int:
        """Images without one."""
        return len(self.labels) - self.num_anomalous

    def auroc(self, number: int) -> Metric:
        """Image AUROC of the model of that number."""
        row = self.scores[number]
        return metrics.bootstrap_interval("image_auroc", row, self.labels, self.groups)

    def difference(self) -> Metric:
        """The challenger's image AUROC less the champion's, on the same resamples of images."""
        challenger, champion = self.scores
        return metrics.paired_bootstrap(
            "image_auroc", challenger, champion, self.labels, self.groups
        )

    def false_calls(self, number: int, threshold: float) -> int:
        """Number of good images that the model of that number calls at the threshold."""
        return int((self.scores[number][self.labels == 0] > threshold).sum())


@dataclass(frozen=True)
class _Exhibit:
    """An image to be shown; `damaged`: again with each kind of synthetic defect.

    An image with a `digest` may be among those that a model was made of.
    """

    sample: Sample
    label: int
    group: str | None
    damaged: bool = False
    digest: str = ""


@dataclass(frozen=True)
class _View:
    """An image as each of the models takes it, an error where it cannot."""

    label: int
    group: str | None
    decoded: tuple[Decoded, ...]


def by_labels(
    rivals: Sequence[Rival], samples: Sequence[Sample], max_images: int
) -> GateTrial | None:
    """The trial on a category's labelled images; None where there are none, or of one label alone.

    The rivals are the challenger and, if there is one, the champion; at most `max_images` of each
    label are shown.

    Raises:
        CategoryError: a score of the challenger is not finite.
        StorageError: an image cannot be reached now.
    """
    parts: tuple[Literal["val", "test"], ...] = ("val", "test")
    for part in parts:
        there = [one for one in samples if one.split == part and one.headline]
        by_label = [[one for one in there if one.gt_label == label] for label in (0, 1)]
        if all(by_label):
            exhibits = [
                _Exhibit(one, one.gt_label, one.group)
                for some in by_label
                for one in sorted(some, key=_rank)[:max_images]
            ]
            return _show(rivals, exhibits, part)
    return None


def by_defects(
    rivals: Sequence[Rival], good: Sequence[tuple[Sample, str]], max_images: int
) -> GateTrial | None:
    """The trial on good images and defects drawn on some of them; None where none is left.

    Arguments are those of `by_labels`, and good training images, each with its file's sha256.

    Raises:
        CategoryError: a score of the challenger is not finite.
        StorageError: an image cannot be reached now.
    """
    held_out = [one for one in good if rivals[0].held_out(one[1])]
    num_shared = None
    if len(rivals) == 2:
        shared = [one for one in held_out if rivals[1].held_out(one[1])]
        num_shared = len(shared)
        held_out = shared if num_shared >= MIN_SHARED else held_out
    chosen = sorted(held_out, key=lambda one: _rank(one[0]))[:max_images]
    num_damaged = max_images // len(synthetic_defects.KINDS)
    exhibits = [
        _Exhibit(sample, 0, sample.group or digest, damaged=n < num_damaged, digest=digest)
        for n, (sample, digest) in enumerate(chosen)
    ]
    return _show(rivals, exhibits, "", num_shared)


def _rank(sample: Sample) -> tuple[float, str]:
    """Sort key by the hash of the URI: a choice that new images hardly change."""
    return place_of(sample.image_uri), sample.image_uri


def _show(
    rivals: Sequence[Rival],
    exhibits: Sequence[_Exhibit],
    part: Literal["val", "test", ""],
    num_shared: int | None = None,
) -> GateTrial | None:
    """Shows the images, some at a time.

    Images that the champion cannot score are left out for both, unless that leaves too few: the
    trial then has the challenger's scores alone.
    """
    scores: list[list[float]] = [[] for _ in rivals]
    views: list[_View] = []
    num_left_out = 0
    ahead = min(preprocess.ahead_of(Preprocessor.of(rival.loaded.card.model)) for rival in rivals)
    found = in_threads(lambda one: _look(rivals, one), exhibits, ahead=ahead)
    queue = zip(exhibits, found, strict=True)
    while chunk := list(islice(queue, min(_CHUNK, ahead))):
        num_left_out += sum(not views for _, views in chunk)
        seen = list(chain.from_iterable(views for _, views in chunk))
        for n, (rival, row) in enumerate(zip(rivals, scores, strict=True)):
            row += _scored(rival, n, chunk)
        # Pixels are no longer needed: each image keeps its label and group.
        views += [replace(view, decoded=()) for view in seen]
    table = np.array(scores, np.float64).reshape(len(rivals), len(views))
    if not np.isfinite(table[0]).all():
        raise CategoryError(
            f"{int((~np.isfinite(table[0])).sum())} of the new model's {len(views)} scores at the "
            "gate are not finite: the training diverged; lower train.learning_rate"
        )
    labels = np.array([view.label for view in views], np.int64)
    if metrics.one_class(labels):
        return None
    kept = np.flatnonzero(np.isfinite(table).all(axis=0))
    if metrics.one_class(labels[kept]):
        table, kept = table[:1], np.arange(len(views))
    num_left_out += len(views) - len(kept)
    groups = [views[n].group for n in kept]
    return GateTrial(part, num_shared, table[:, kept], labels[kept], groups, num_left_out)


def _scored(
    rival: Rival, number: int, chunk: Sequence[tuple[_Exhibit, Sequence[_View]]]
) -> list[float]:
    """One score a view, NaN for an error."""
    model: Detector = rival.loaded.model
    if not any(exhibit.digest for exhibit, _ in chunk):
        return _scores(model, [view.decoded[number] for _, views in chunk for view in views])
    found: list[float] = []
    for exhibit, views in chunk:
        shown = [view.decoded[number] for view in views]
        if shown and shown[0].error_kind is None:
            model = rival.stranger_to(shown[0], exhibit.digest)
        found += _scores(model, shown, batch_size=1 + len(synthetic_defects.KINDS))
    return found


def _scores(
    model: Detector, decoded: Sequence[Decoded], *, batch_size: int | None = None
) -> list[float]:
    good = [image for image in decoded if image.error_kind is None]
    results = inference.score_images(model, good, batch_size=batch_size)
    return [np.nan if image.error_kind else next(results).image_score for image in decoded]


def _look(rivals: Sequence[Rival], exhibit: _Exhibit) -> list[_View]:
    """The image as the models take it, and its synthetic defects; empty where it cannot be read."""
    found = synthetic_defects.read_and_draw(
        exhibit.sample, rivals[0].loaded.model.roi, seed=_SEED, with_defects=exhibit.damaged
    )

    def view(loaded: LoadedModel, rgb: NDArray[np.uint8]) -> Decoded:
        pixels, geometry = Preprocessor.of(loaded.card.model).fit(rgb)
        decoded = Decoded(exhibit.sample.image_uri, pixels=pixels, geometry=geometry)
        return inference.within(loaded.model.roi, decoded)

    return [
        _View(label or exhibit.label, exhibit.group, tuple(view(one.loaded, rgb) for one in rivals))
        for label, rgb, _ in found.shown
    ]
