"""Scores, maps and ground truth of one category to rows of `schema.METRICS`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrkd.data.datasets import GOOD
from mrkd.evaluation.metrics import (
    IMAGE_METRICS,
    Metric,
    PixelHistogram,
    PixelMetric,
    Weights,
    bootstrap_interval,
    image_distribution,
    one_class,
    resample_weights,
)

MEAN = "mean"
"""In the column `defect`: the mean of the figures of all defects, however many images each has."""

LEFT_OUT = "images_without_gt_mask"
"""The metric that counts images left out of the pixel metrics, by defect."""


class Pixels:
    """Values of a category's maps that the pixel metrics need, added image by image.

    An anomalous image without a defective pixel, and one without a usable mask, is left out of the
    pixel metrics, and counted.
    """

    def __init__(self) -> None:
        self.histogram = PixelHistogram()
        self.given: list[int] = []
        self.kept: list[int] = []

    def add(
        self,
        number: int,
        anomaly_map: NDArray[Any],
        gt_mask: NDArray[Any] | None,
        inside: NDArray[Any] | None = None,
        *,
        gt_label: int,
    ) -> None:
        """Takes an image.

        Args:
            number: its index among the images that could be scored.
            anomaly_map: float `[H, W]`, without letterbox borders.
            gt_mask: bool `[H, W]`, True where defective; None: nowhere.
            inside: bool `[H, W]`, False where nothing is inspected; None: everything is.
            gt_label: 0 good, 1 anomalous.

        Raises:
            ValueError: shapes differ, or the map holds a NaN.
        """
        self.given.append(number)
        shown = gt_mask if gt_mask is None or inside is None else gt_mask & inside
        if gt_label and (shown is None or not shown.any()):
            return
        self.histogram.add(anomaly_map, shown, inside)
        self.kept.append(number)

    def leave_out(self, number: int) -> None:
        """Takes note of an image whose mask cannot be used."""
        self.given.append(number)

    @property
    def left_out(self) -> list[int]:
        """Numbers of the images that no pixel metric knows."""
        return sorted(set(self.given) - set(self.kept))


Figure = tuple[str, str | None, Metric]
Measured = tuple[Metric, NDArray[np.float64]]


def evaluate_category(
    category: str,
    image_scores: ArrayLike,
    gt_labels: ArrayLike,
    defects: Sequence[str],
    *,
    headline: Sequence[bool] | None = None,
    groups: Sequence[Hashable] | None = None,
    pixels: Pixels | None = None,
    fpr_limit: float = 0.3,
    resamples: int = 1000,
    bootstrap_seed: int = 0,
    seed: int | None = None,
    model_version: str | None = None,
) -> list[dict[str, Any]]:
    """Every metric of one category, by row: over all defects, for each of them, and their mean.

    A defect's figure takes its images against all good ones. The pixel metrics over all defects
    follow whichever defects cover the most pixels; the mean weighs every defect alike.

    Args:
        category: its name.
        image_scores: `[N]`, of the images that could be scored.
        gt_labels: `[N]`, 0 good, 1 anomalous.
        defects: `[N]`, kind of defect, `good` where there is none.
        headline: `[N]`, False where an image counts for its own defect alone; None: all True.
        groups: `[N]`, what the bootstrap draws as one; None, or an image's None: each for itself.
        pixels: values of the images that have maps; None: no pixel metrics.
        fpr_limit: largest false-positive rate of `aupro`.
        resamples: number of resamples of each interval; 0: none.
        bootstrap_seed: seed of the draws.
        seed: seed of the training, for the column of that name.
        model_version: value of the column of that name.

    Returns:
        Values of the columns of `schema.METRICS`, and `draws` of each figure (`Metric`).

    Raises:
        ValueError: lengths differ, or a score is NaN.

    Source: spec section 8.
    """
    images = _labelled(image_scores, gt_labels, defects, headline, groups)
    draw = _Draw(resamples, bootstrap_seed)
    figures = _image_figures(images, draw) + _pixel_figures(
        images, pixels or Pixels(), fpr_limit, draw
    )
    return [
        {
            "category": category,
            "metric": metric,
            "defect": defect,
            "seed": seed,
            "model_version": model_version,
            "draws": figure.draws,
            **figure.columns,
        }
        for metric, defect, figure in figures
    ]


class _Draw(NamedTuple):
    """Number and seed of the resamples."""

    resamples: int
    seed: int

    def weights(self, images: _Labelled) -> Weights:
        """Resamples for the figures of the defects and their mean."""
        # Each kind keeps its number of images. Not so with groups: few hold the same set of
        # kinds, and one that is alone with its set would be in every resample.
        strata = images.labels if images.groups is not None else images.defects
        return resample_weights(
            strata.tolist(), images.groups, resamples=self.resamples, seed=self.seed
        )


@dataclass(frozen=True)
class _Labelled:
    """Images by columns, each `[N]`."""

    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    defects: NDArray[np.object_]
    headline: NDArray[np.bool_]
    groups: Sequence[Hashable] | None

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> _Labelled:
        """The images of these rows."""
        return _Labelled(
            self.scores[rows],
            self.labels[rows],
            self.defects[rows],
            self.headline[rows],
            None if self.groups is None else [self.groups[n] for n in rows],
        )

    def with_good(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Numbers of the chosen images and of all good ones."""
        return np.flatnonzero(chosen | (self.labels == 0))

    def kinds(self, *, headline: bool) -> list[str]:
        """Kinds of defect that count in the figures over all defects, or that do not."""
        return sorted(set(self.defects[(self.labels == 1) & (self.headline == headline)]))


def _labelled(
    scores: ArrayLike,
    labels: ArrayLike,
    defects: Sequence[str],
    headline: Sequence[bool] | None,
    groups: Sequence[Hashable] | None,
) -> _Labelled:
    images = _Labelled(
        np.asarray(scores, np.float64),
        np.asarray(labels, np.int64),
        np.array(defects, dtype=np.object_),
        np.ones(len(defects), np.bool_) if headline is None else np.array(headline, np.bool_),
        groups,
    )
    columns = (images.scores, images.labels, images.defects, images.headline)
    lengths = [len(column) for column in columns] + ([] if groups is None else [len(groups)])
    if len(set(lengths)) > 1:
        raise ValueError(f"scores, labels, defects, headline and groups are {lengths} long")
    if np.isnan(images.scores).any():
        raise ValueError(f"{np.isnan(images.scores).sum()} of {lengths[0]} image scores are NaN")
    if ((images.defects == GOOD) != (images.labels == 0)).any():
        raise ValueError(f"an image has label 0 and a defect, or label 1 and the defect {GOOD!r}")
    return images


def _image_figures(images: _Labelled, draw: _Draw) -> list[Figure]:
    over_all = images.take(images.with_good(images.headline))
    columns = (over_all.scores, over_all.labels, over_all.groups)
    figures: list[Figure] = [
        (metric, None, bootstrap_interval(metric, *columns, **draw._asdict()))
        for metric in IMAGE_METRICS
    ]
    weights_RN = draw.weights(images)

    def measure(defect: str) -> Measured:
        rows = images.with_good(images.defects == defect)
        scores, labels = images.scores[None, rows], images.labels[rows]
        reason = one_class(labels)
        if reason:
            return Metric(None, reason=reason), np.zeros(0)
        itself = np.ones((1, len(rows)), np.uint16)
        return (
            Metric.of(image_distribution("image_auroc", scores, labels, itself)[0]),
            image_distribution("image_auroc", scores, labels, weights_RN[:, rows]),
        )

    return figures + _by_defect("image_auroc", images, measure)


def _pixel_figures(
    images: _Labelled, pixels: Pixels, fpr_limit: float, draw: _Draw
) -> list[Figure]:
    histogram, kept = pixels.histogram, pixels.kept
    left_out = Counter(images.defects[pixels.left_out].tolist())
    figures: list[Figure] = [
        (LEFT_OUT, defect, Metric.of(count)) for defect, count in sorted(left_out.items())
    ]
    if not kept:
        return figures
    shown = images.take(kept)
    weights_RN = draw.weights(shown)

    def measure(metric: PixelMetric, defect: str | None) -> Measured:
        chosen = shown.headline if defect is None else shown.defects == defect
        rows = shown.with_good(chosen)
        return histogram.resampled(metric, rows, weights_RN, fpr_limit=fpr_limit)

    for metric in get_args(PixelMetric):
        figures.append((metric, None, _with_interval(*measure(metric, None))))
        figures += _by_defect(metric, images.take(pixels.given), partial(measure, metric))
    return figures


def _by_defect(metric: str, images: _Labelled, measure: Callable[[str], Measured]) -> list[Figure]:
    """The figure of each kind of defect, and the mean of those that count over all."""
    counting = {defect: measure(defect) for defect in images.kinds(headline=True)}
    others = {defect: measure(defect) for defect in images.kinds(headline=False)}
    figures: list[Figure] = [
        (metric, defect, _with_interval(*each)) for defect, each in (counting | others).items()
    ]
    if counting:
        figures.append((metric, MEAN, _mean(counting)))
    return figures


def _mean(measured: Mapping[str, Measured]) -> Metric:
    values = []
    for defect, (figure, _) in measured.items():
        if figure.value is None:
            return Metric(None, reason=f"{defect} has no figure: {figure.reason}")
        values.append(figure.value)
    distributions = [distribution for _, distribution in measured.values()]
    return Metric.of(float(np.mean(values)), np.mean(distributions, axis=0))


def _with_interval(figure: Metric, distribution: NDArray[np.float64]) -> Metric:
    return figure if figure.value is None else Metric.of(figure.value, distribution)
