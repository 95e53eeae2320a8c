"""Objective of a search: AUROC or AUPRO of a model during training, on a fixed set of images.

The model was neither trained nor calibrated on these images, and the winner is not tested on them.
With labels they are the category's `val` part; without, defects drawn on the good images of the
validation side. A teacher sees them once: its features of them are kept.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mrkd.data import datasets, images, preprocess, synthetic_defects
from mrkd.data.datasets import Sample
from mrkd.data.datasets.sample import place_of
from mrkd.data.images import Geometry
from mrkd.data.preprocess import Decoded, Preprocessor
from mrkd.errors import CategoryError
from mrkd.evaluation import metrics
from mrkd.model import inference
from mrkd.model.detector import Detector
from mrkd.model.feature_cache import TeacherFeatures
from mrkd.model.inference.regions import inside
from mrkd.storage.thread_map import in_threads

log = logging.getLogger(__name__)

By = Literal["labels", "synthetic"]

# An image's synthetic defects are the same in every trial of every search.
_SEED = 1
_BINS = 1024


@dataclass(frozen=True)
class ObjectiveResult:
    """Figures of a model on an `EvalSet`.

    Args:
        image_auroc: AUROC over its images.
        aupro: AUPRO over its defective regions; None where no image has a mask.
        false_call_rate: share of its good images above the threshold; None without a threshold.
        scores: scores of its images.
    """

    image_auroc: float
    aupro: float | None = None
    false_call_rate: float | None = None
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class EvalSet:
    """Images with labels and masks.

    Args:
        decoded: images at a model's size.
        labels: int64 `[N]`, 0 good, 1 defective; both are there.
        groups: `[N]`, what resamples draw as one.
        gt_masks: bool of the map's size inside the image; None where there is none.
        num_left_out: number of images that cannot be read.
    """

    decoded: Sequence[Decoded]
    labels: NDArray[np.int64]
    groups: Sequence[str | None]
    gt_masks: Sequence[NDArray[np.bool_] | None]
    num_left_out: int = 0


def labelled_parts(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """The labelled images to choose by, and those to report.

    A category whose data set has no `val` part with both labels is cut in two: half of the groups
    with a defect and half of those without, by the hash of their names. An image without a group
    is one of its own.

    Returns:
        Two lists, with good and defective images in each; two empty ones where there are not.
    """
    there = [one for one in samples if one.split != "train" and one.headline]
    chosen = [one for one in there if one.split == "val"]
    if not _has_both(chosen):
        first = _first_half(there)
        chosen = [one for one in there if (one.group or one.image_uri) in first]
    uris = {one.image_uri for one in chosen}
    rest = [one for one in there if one.image_uri not in uris]
    return (chosen, rest) if _has_both(chosen) and _has_both(rest) else ([], [])


def ask_labelled(samples: Sequence[Sample], model: Detector, *, max_images: int) -> EvalSet:
    """Labelled images, at most `max_images` of each label, chosen by the hash of their URIs.

    Raises:
        CategoryError: those that can be read are of one label alone.
        StorageError: an image cannot be reached now.
    """
    decoder = Preprocessor.of(model.config)
    ranked = sorted(samples, key=lambda one: (place_of(one.image_uri), one.image_uri))
    by_label = ([one for one in ranked if one.gt_label == label] for label in (0, 1))
    some = [one for of_label in by_label for one in of_label[:max_images]]
    found = []
    for sample, read in zip(some, preprocess.decode_samples(some, decoder), strict=True):
        image = inference.within(model.roi, read)
        if image.pixels is not None and image.geometry is not None:
            found.append((image, sample.gt_label, sample.group, _gt_mask(sample, image.geometry)))
    return _questions(found, num_left_out=len(some) - len(found))


def ask_synthetic(
    good: Sequence[Sample], model: Detector, *, max_images: int, seed: int = _SEED
) -> EvalSet:
    """Good images that a model has not learnt, and some again with a defect of each kind.

    At most `max_images` of each label, `seed` draws the defects; errors as `ask_labelled`.
    """
    ranked = sorted(good, key=lambda one: (place_of(one.image_uri), one.image_uri))
    num_damaged = max_images // len(synthetic_defects.KINDS)

    def look(number: int) -> list[tuple[Decoded, int, str | None, NDArray[np.bool_] | None]]:
        sample = ranked[number]
        drawn = synthetic_defects.read_and_draw(
            sample, model.roi, seed=seed, with_defects=number < num_damaged
        )
        fitted = [(label, *decoder.fit(rgb), mask) for label, rgb, mask in drawn.shown]
        return [
            (
                Decoded(sample.image_uri, pixels=pixels, geometry=geometry),
                label,
                drawn.digest,
                inside(images.resize_mask(mask, geometry), geometry),
            )
            for label, pixels, geometry, mask in fitted
        ]

    decoder = Preprocessor.of(model.config)
    numbers = range(min(len(ranked), max_images))
    looked = list(in_threads(look, numbers, ahead=preprocess.ahead_of(decoder)))
    found = [one for some in looked for one in some]
    return _questions(found, num_left_out=sum(not some for some in looked))


class Objective:
    """Measures models of one teacher, size and region of interest on an `EvalSet`.

    Args:
        questions: the images.
        model: one of the models, on the device to score on.
        folder: local folder where the teacher's features are kept and shared (float16); empty:
            every model scores the images themselves, as a night does.
    """

    def __init__(self, questions: EvalSet, model: Detector, *, folder: str = "") -> None:
        self.questions = questions
        self._features: TeacherFeatures | None = None
        if folder and not model.config.tiles:
            shown = [image.pixels for image in questions.decoded if image.pixels is not None]
            self._features = TeacherFeatures(
                model.teacher, np.stack(shown), budget_bytes=0, roi=model.pixel_roi, folder=folder
            )

    def marks(
        self, model: Detector, *, threshold: float | None = None, with_pixels: bool = True
    ) -> ObjectiveResult:
        """Figures of a model in eval mode.

        Args:
            model: a model with the objective's teacher, size and region of interest.
            threshold: threshold of image scores; None: not known yet.
            with_pixels: whether its maps are measured too.

        Raises:
            CategoryError: a score is not finite.
        """
        asked = self.questions
        scores = np.zeros(len(asked.labels))
        pixels = metrics.PixelHistogram(_BINS)
        region = None if model.pixel_roi is None else model.pixel_roi.cpu().numpy() > 0
        for n, (image_score, anomaly_map) in enumerate(self._answers(model)):
            if not np.isfinite(image_score) or not np.isfinite(anomaly_map).all():
                raise CategoryError(
                    f"the score of {asked.decoded[n].image_uri} is not finite: the training "
                    "diverged; lower train.learning_rate"
                )
            scores[n] = image_score
            geometry, gt_mask = asked.decoded[n].geometry, asked.gt_masks[n]
            assert geometry is not None
            if with_pixels and gt_mask is not None:
                roi = None if region is None else inside(region, geometry)
                pixels.add(inside(anomaly_map, geometry), gt_mask, roi)
        image_auroc = metrics.image_auroc(scores, asked.labels).value
        assert image_auroc is not None
        above = None
        if threshold is not None:
            above = float((scores[asked.labels == 0] > threshold).mean())
        aupro = pixels.figure("aupro").value if len(pixels) else None
        return ObjectiveResult(image_auroc, aupro, above, tuple(scores.tolist()))

    @torch.inference_mode()
    def _answers(self, model: Detector) -> Iterator[tuple[float, NDArray[np.float32]]]:
        """Score and map of each image, in order."""
        if self._features is None:
            for scored in inference.score_images(model, self.questions.decoded):
                yield scored.image_score, scored.anomaly_map
            return
        for levels in self._features.batches():
            found = model.from_features(levels)
            joined = model.join(model.maps(found), found)
            scores = joined.image_score.tolist()
            yield from zip(scores, joined.anomaly_map.cpu().numpy(), strict=True)


def _questions(
    found: Sequence[tuple[Decoded, int, str | None, NDArray[np.bool_] | None]], *, num_left_out: int
) -> EvalSet:
    labels = np.array([label for _, label, _, _ in found], np.int64)
    if reason := metrics.one_class(labels):
        raise CategoryError(
            f"a search cannot measure it: {reason}, and {num_left_out} cannot be read"
        )
    decoded, _, groups, gt_masks = zip(*found, strict=True)
    return EvalSet(decoded, labels, groups, gt_masks, num_left_out)


def _gt_mask(sample: Sample, geometry: Geometry) -> NDArray[np.bool_] | None:
    """The mask of an image, empty for a good one; None where nobody has drawn it usably."""
    if sample.gt_mask_uri is not None:
        try:
            gt_mask = inside(datasets.read_gt_mask(sample.gt_mask_uri, geometry), geometry)
        except CategoryError as error:
            log.warning("gt_mask_left_out image=%s reason=%s", sample.image_uri, error)
            return None
        return gt_mask if sample.gt_label or not gt_mask.any() else None
    _, _, width, height = geometry.valid
    return None if sample.gt_label else np.zeros((height, width), bool)


def _first_half(samples: Sequence[Sample]) -> set[str]:
    """Half of the groups with a defect and half of the others, by the hash of their names."""
    labels: dict[str, int] = {}
    for one in samples:
        name = one.group or one.image_uri
        labels[name] = max(labels.get(name, 0), one.gt_label)
    halves: set[str] = set()
    for label in (0, 1):
        names = sorted((name for name, found in labels.items() if found == label), key=place_of)
        halves.update(names[: len(names) // 2])
    return halves


def _has_both(samples: Sequence[Sample]) -> bool:
    return {one.gt_label for one in samples} == {0, 1}
