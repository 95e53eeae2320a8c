"""Metrics of image scores, read off the curve of images called at falling thresholds.

Legend: N images, S seeds, R resamples, K vertices of a curve.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrkd.evaluation.metrics.bootstrap import Floats, Metric, Weights, area, resample_weights, share

# Resamples that go through a curve at once: with 10,000 images, 16 MB an array.
_CHUNK = 200


@dataclass(frozen=True)
class Curve:
    """Images called anomalous at falling thresholds, from none to all.

    Args:
        thresholds: float64 `[K]`, infinity first; an image is called where its score reaches it.
        tp: float64 `[..., K]`, weight of the anomalous images called.
        fp: float64 `[..., K]`, weight of the good images called.
    """

    thresholds: Floats
    tp: Floats
    fp: Floats

    @classmethod
    def of(cls, scores: Floats, labels: NDArray[Any], weights: NDArray[Any]) -> Self:
        """The curve of scores `[N]` and labels `[N]` under weights `[..., N]`."""
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        # Equal scores are called together: the last of each run of them is a vertex.
        ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        called = weights[..., order]

        def count(of_label: int) -> Floats:
            running = np.cumsum(called * (labels[order] == of_label), -1, np.float64)[..., ends]
            return np.concatenate([np.zeros_like(running[..., :1]), running], -1)

        return cls(np.append(np.inf, ranked[ends]), count(1), count(0))

    @property
    def tpr(self) -> Floats:
        """Recall: share of the anomalous called."""
        return share(self.tp)

    @property
    def fpr(self) -> Floats:
        """Share of the good called."""
        return share(self.fp)


def _average_precision(curve: Curve, prevalence: float | None = None) -> Floats:
    """Mean precision over recall, at the data's own share of anomalous images or another."""
    odds = curve.fp[..., -1:] / curve.tp[..., -1:]
    if prevalence is not None:
        odds = np.full_like(odds, (1 - prevalence) / prevalence)
    called = curve.tpr + odds * curve.fpr
    precision = np.divide(curve.tpr, called, out=np.zeros_like(called), where=called > 0)
    return np.asarray((np.diff(curve.tpr, axis=-1) * precision[..., 1:]).sum(-1))


def _f1(curve: Curve) -> Floats:
    return 2 * curve.tp / (curve.tp + curve.fp + curve.tp[..., -1:])


def fpr_at_recall(curve: Curve, recall: float) -> Floats:
    """Share of good images called where `recall` of the anomalous are: float64 `[...]`."""
    # A recall such as 0.95 of 60 is not a whole number in floating point.
    first = (curve.tpr >= recall - 1e-9).argmax(-1)
    return np.asarray(np.take_along_axis(curve.fpr, first[..., None], -1)[..., 0])


IMAGE_METRICS: dict[str, Callable[[Curve], Floats]] = {
    "image_auroc": lambda curve: area(curve.fpr, curve.tpr, 1.0),
    "average_precision": _average_precision,
    # As if 2 % of the images were anomalous: test sets hold far more of them than a line makes.
    "average_precision_at_2_percent": partial(_average_precision, prevalence=0.02),
    "f1_max": lambda curve: np.asarray(_f1(curve).max(-1)),
    "f1_max_threshold": lambda curve: np.asarray(curve.thresholds[_f1(curve).argmax(-1)]),
    "fpr_at_95_recall": partial(fpr_at_recall, recall=0.95),
    "fpr_at_100_recall": partial(fpr_at_recall, recall=1.0),
}


def image_auroc(scores: ArrayLike, labels: ArrayLike) -> Metric:
    """Chance that an anomalous image scores above a good one, ties at half (Mann-Whitney).

    Args:
        scores: `[N]`, higher is more anomalous.
        labels: `[N]`, 0 good, 1 anomalous.

    Raises:
        ValueError: a score is NaN, a label neither 0 nor 1, or the lengths differ.

    Source: spec section 8.
    """
    return bootstrap_interval("image_auroc", scores, labels, resamples=0)


def bootstrap_interval(
    metric: str,
    scores: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Metric:
    """A metric of `IMAGE_METRICS` with its interval; null with a reason where one class is missing.

    Args:
        metric: its name.
        scores: `[N]`, or `[S, N]` for S seeds: the metric is then their mean.
        labels: `[N]`, 0 good, 1 anomalous.
        groups: `[N]`, what is drawn as one (a tile, a module); None: each image for itself.
        resamples: rows drawn; 0: no interval.
        seed: seed of the draws.
        level: share of the resampled values inside the interval.

    Raises:
        ValueError: as `image_auroc`.
    """
    scores_SN, labels_N = _checked(scores, labels)
    reason = one_class(labels_N)
    if reason:
        return Metric(None, reason=reason)
    weights_RN = resample_weights(labels_N.tolist(), groups, resamples=resamples, seed=seed)
    value = image_distribution(metric, scores_SN, labels_N, np.ones((1, len(labels_N)), np.uint16))
    return Metric.of(
        value[0], image_distribution(metric, scores_SN, labels_N, weights_RN), level=level
    )


def paired_bootstrap(
    metric: str,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Metric:
    """The metric of `scores_a` less that of `scores_b`, both on the same resamples of images.

    Arguments and errors are those of `bootstrap_interval`; the two may have different seeds.
    """
    a_SN, labels_N = _checked(scores_a, labels)
    b_SN, _ = _checked(scores_b, labels)
    reason = one_class(labels_N)
    if reason:
        return Metric(None, reason=reason)
    weights_RN = resample_weights(labels_N.tolist(), groups, resamples=resamples, seed=seed)
    rows = np.concatenate([np.ones((1, len(labels_N)), np.uint16), weights_RN])
    difference = image_distribution(metric, a_SN, labels_N, rows)
    difference = difference - image_distribution(metric, b_SN, labels_N, rows)
    return Metric.of(difference[0], difference[1:], level=level)


def image_distribution(
    metric: str, scores_SN: Floats, labels_N: NDArray[Any], weights_RN: Weights
) -> Floats:
    """The metric, as a mean over seeds, under each row of weights: float64 `[R]`."""
    compute = IMAGE_METRICS[metric]
    chunks = [
        np.mean([compute(Curve.of(scores_N, labels_N, weights)) for scores_N in scores_SN], axis=0)
        for weights in (weights_RN[n : n + _CHUNK] for n in range(0, len(weights_RN), _CHUNK))
    ]
    return np.concatenate(chunks) if chunks else np.zeros(0)


def one_class(labels: NDArray[Any]) -> str | None:
    """Why labels `[N]` allow no metric, or None where both classes are there."""
    anomalous = int(np.count_nonzero(labels))
    if 0 < anomalous < len(labels):
        return None
    if not len(labels):
        return "no images"
    return f"all {len(labels)} images are {'anomalous' if anomalous else 'good'}"


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    """Scores as `[S, N]` and labels as `[N]`."""
    scores_SN = np.atleast_2d(np.asarray(scores, np.float64))
    labels_N = np.asarray(labels)
    if scores_SN.ndim != 2 or labels_N.shape != scores_SN.shape[1:]:
        raise ValueError(
            f"scores are {scores_SN.shape} and labels {labels_N.shape}: expected N each"
        )
    if np.isnan(scores_SN).any():
        raise ValueError(f"{np.isnan(scores_SN).sum()} of the {scores_SN.size} scores are NaN")
    if not np.isin(labels_N, (0, 1)).all():
        raise ValueError(f"labels are {np.unique(labels_N)[:5]}: expected 0 (good), 1 (anomalous)")
    return scores_SN, labels_N.astype(np.int64)
