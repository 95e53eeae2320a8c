"""Metrics of anomaly maps, exact or from bins of equal count, each image kept by itself.

Legend: N images, R resamples, G cells of the grid that the images share.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label

from mrkd.metrics.bootstrap import Floats, Metric, Weights, area, share

PixelMetric = Literal["pixel_auroc", "aupro"]

# Values of the good pixels between which the shared grid has its cells.
_GRID = 1024


def pixel_auroc(maps: Iterable[NDArray[Any]], gt_masks: Iterable[NDArray[Any] | None]) -> Metric:
    """Chance that a defective pixel lies above a good one, over all pixels of all images, exact.

    Args:
        maps: float `[H, W]` each, sizes may differ; 4 bytes a pixel are kept, 12 for a moment.
        gt_masks: bool `[H, W]` each, True where defective; None: nowhere.

    Raises:
        ValueError: a map holds a NaN, a mask does not fit its map, or the numbers differ.

    Source: spec section 8.
    """
    return _exact(maps, gt_masks).pixel_auroc()


def aupro(
    maps: Iterable[NDArray[Any]],
    gt_masks: Iterable[NDArray[Any] | None],
    fpr_limit: float = 0.3,
) -> Metric:
    """Mean overlap with the defective regions against the share of good pixels called, exact.

    Regions are the 8-connected parts of each mask; the share of good pixels is taken over the
    whole set; thresholds are all distinct values; the area up to `fpr_limit` is divided by it.
    Arguments and errors are those of `pixel_auroc`.

    Source: spec section 8. Differs: RD4AD's code steps through 200 thresholds and averages by
    image.
    """
    return _exact(maps, gt_masks).aupro(fpr_limit)


def _exact(maps: Iterable[NDArray[Any]], gt_masks: Iterable[NDArray[Any] | None]) -> PixelHistogram:
    pixels = PixelHistogram(bins=None)
    for anomaly_map, gt_mask in zip(maps, gt_masks, strict=True):
        pixels.add(anomaly_map, gt_mask)
    return pixels


@dataclass(frozen=True)
class _Pixels:
    """What is kept of one image's map; a value may stand for several pixels."""

    good: NDArray[Any]
    good_weight: float
    """Good pixels that each value of `good` stands for."""
    defect: NDArray[Any]
    defect_weights: Floats
    defect_shares: Floats
    """Share of its region that each value of `defect` stands for; they add up to the regions."""

    def found_by(self, metric: PixelMetric) -> Floats:
        """What each value of `defect` adds to the curve of the metric."""
        return self.defect_shares if metric == "aupro" else self.defect_weights


class PixelHistogram:
    """Map values of good pixels and of defective regions, in bins of equal count for each image.

    An image keeps at most `bins` values for its good pixels and for each of its regions, each for
    equally many pixels: with 4096, 16 KB an image, and figures within 1e-3 of the exact ones
    whatever the values are. With None it keeps all.

    Nothing is summed up before the end, so that a figure can be taken over some of the images and
    its interval by drawing images anew.
    """

    def __init__(self, bins: int | None = 4096) -> None:
        self._bins = bins
        self._images: list[_Pixels] = []
        self._grid: dict[str, NDArray[np.float32]] | None = None

    def __len__(self) -> int:
        return len(self._images)

    def add(
        self,
        anomaly_map: NDArray[Any],
        gt_mask: NDArray[Any] | None,
        inside: NDArray[Any] | None = None,
    ) -> None:
        """Adds an image.

        Args:
            anomaly_map: float `[H, W]`, without letterbox borders.
            gt_mask: bool `[H, W]`, True where defective; None: nowhere.
            inside: bool `[H, W]`, False where a pixel is not counted; None: all are.

        Raises:
            ValueError: the shapes differ, or the map holds a NaN.
        """
        gt_mask = np.zeros(anomaly_map.shape, bool) if gt_mask is None else gt_mask.astype(bool)
        if anomaly_map.ndim != 2 or anomaly_map.shape != gt_mask.shape:
            raise ValueError(
                f"anomaly_map is {anomaly_map.shape}, gt_mask {gt_mask.shape}: expected one [H, W]"
            )
        if np.isnan(anomaly_map).any():
            raise ValueError(f"the anomaly_map of image {len(self)} holds a NaN")
        if inside is not None:
            gt_mask = gt_mask & inside
        good_pixels = ~gt_mask if inside is None else inside & ~gt_mask
        good, good_weight = _thin(anomaly_map[good_pixels], self._bins)
        regions = [_thin(values, self._bins) for values in _regions(anomaly_map, gt_mask)]
        self._images.append(
            _Pixels(
                good=good,
                good_weight=good_weight,
                defect=_concatenate(values for values, _ in regions),
                defect_weights=_concatenate(np.full(len(v), weight) for v, weight in regions),
                defect_shares=_concatenate(np.full(len(v), 1 / len(v)) for v, _ in regions),
            )
        )
        self._grid = None

    def pixel_auroc(self) -> Metric:
        """As the function of that name."""
        return self.figure("pixel_auroc")

    def aupro(self, fpr_limit: float = 0.3) -> Metric:
        """As the function of that name."""
        return self.figure("aupro", fpr_limit=fpr_limit)

    def figure(
        self,
        metric: PixelMetric,
        images: Sequence[int] | NDArray[np.int64] | None = None,
        *,
        fpr_limit: float = 0.3,
    ) -> Metric:
        """The metric over all images, or over those that are numbered, in order of adding."""
        limit = _limit(metric, fpr_limit)
        chosen = self._images if images is None else [self._images[n] for n in images]
        values = _concatenate(image.defect for image in chosen)
        num_good = sum(len(image.good) for image in chosen)
        if not values.size or not num_good:
            kind = "defective" if values.size else "good"
            return Metric(None, reason=f"all pixels of the {len(chosen)} images are {kind}")
        weights = _concatenate(image.found_by(metric) for image in chosen)
        # Between two values found in defects only good pixels are called: the curve is flat
        # there, so that its vertices just above and at each such value are all of it.
        distinct, inverse = np.unique(values, return_inverse=True)
        found = np.cumsum(np.bincount(inverse, weights)[::-1])
        above, reached = _called(chosen, distinct[::-1])
        fpr = np.concatenate([[0], np.stack([above, reached], 1).ravel(), [1]])
        steps = np.repeat(found / found[-1], 2)
        return Metric.of(float(area(fpr, np.concatenate([[0, 0], steps]), limit)))

    def resampled(
        self,
        metric: PixelMetric,
        images: NDArray[np.int64],
        weights_RN: Weights,
        *,
        fpr_limit: float = 0.3,
    ) -> tuple[Metric, Floats]:
        """The metric over the numbered images, and its values over resamples of them.

        The metric is exact, what is resampled is binned; an interval would take the difference for
        a bias, so that it is taken off.

        Args:
            metric: its name.
            images: `[<= N]`, in order of adding.
            weights_RN: of all images; those of others count as 0.
            fpr_limit: of `aupro`.

        Returns:
            The figure without an interval; float64 `[R]`, empty where there is no figure.
        """
        figure = self.figure(metric, images, fpr_limit=fpr_limit)
        if figure.value is None:
            return figure, np.zeros(0)
        drawn = np.zeros((len(weights_RN) + 1, len(self)), np.uint16)
        drawn[0, images], drawn[1:, images] = 1, weights_RN[:, images]
        binned = self.distribution(metric, drawn, fpr_limit=fpr_limit)
        return figure, binned[1:] + (figure.value - binned[0])

    def distribution(
        self, metric: PixelMetric, weights_RN: Weights, *, fpr_limit: float = 0.3
    ) -> Floats:
        """The metric under each row of weights: float64 `[R]`.

        An image of weight 0 is left out. Values go to a grid that all images share, so that a
        resample costs one product of matrices; made for intervals, 1e-3 off at most for AUROC.
        """
        limit = _limit(metric, fpr_limit)
        if self._grid is None:
            self._grid = _grid(self._images)
        weights = weights_RN.astype(np.float32)
        return area(
            _risen(weights @ self._grid["good"]),
            _risen(weights @ self._grid[metric]),
            limit,
        )


def _limit(metric: PixelMetric, fpr_limit: float) -> float:
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit is {fpr_limit}: it must lie in (0, 1]")
    return fpr_limit if metric == "aupro" else 1.0


def _regions(anomaly_map: NDArray[Any], gt_mask: NDArray[Any]) -> list[NDArray[Any]]:
    """Map values of each 8-connected region."""
    numbers, count = label(gt_mask, connectivity=2, return_num=True)  # type: ignore[no-untyped-call]
    region_of = numbers[gt_mask]
    order = np.argsort(region_of, kind="stable")
    cuts = np.searchsorted(region_of[order], np.arange(2, count + 1))
    return np.split(anomaly_map[gt_mask][order], cuts) if count else []


def _thin(values: NDArray[Any], bins: int | None) -> tuple[NDArray[Any], float]:
    """At most `bins` of the values, evenly spaced by rank, and how many pixels each stands for."""
    if bins is None or len(values) <= bins:
        return values, 1.0
    ranks = ((np.arange(bins) + 0.5) * len(values) / bins).astype(np.int64)
    return np.sort(values)[ranks], len(values) / bins


def _called(images: Sequence[_Pixels], thresholds: NDArray[Any]) -> tuple[Floats, Floats]:
    """Shares of the good pixels above each threshold, and at or above it."""
    values = _concatenate(image.good for image in images)
    if all(image.good_weight == 1 for image in images):
        values.sort()
        below = np.searchsorted(values, thresholds, "left") / len(values)
        up_to = np.searchsorted(values, thresholds, "right") / len(values)
    else:
        weights = _concatenate(np.full(len(i.good), i.good_weight) for i in images)
        order = np.argsort(values)
        running = np.append(0, np.cumsum(weights[order]))
        running /= running[-1]
        values = values[order]
        below = running[np.searchsorted(values, thresholds, "left")]
        up_to = running[np.searchsorted(values, thresholds, "right")]
    return 1 - up_to, 1 - below


def _grid(images: Sequence[_Pixels]) -> dict[str, NDArray[np.float32]]:
    """What each image has in each cell, `[N, G]`: good pixels, and what each metric finds.

    Cells are single values of good pixels, evenly spaced by rank, and the gaps between them: a
    value that many pixels share has a cell to itself.
    """
    good = np.sort(_concatenate(image.good for image in images))
    edges = np.unique(_thin(good, _GRID)[0])

    def cells(values: NDArray[Any], weights: Floats) -> NDArray[np.float32]:
        cell = np.searchsorted(edges, values, "left") + np.searchsorted(edges, values, "right")
        return np.bincount(cell, weights, minlength=2 * len(edges) + 1).astype(np.float32)

    found = {
        metric: np.stack([cells(image.defect, image.found_by(metric)) for image in images])
        for metric in get_args(PixelMetric)
    }
    return found | {
        "good": np.stack([cells(i.good, np.full(len(i.good), i.good_weight)) for i in images])
    }


def _risen(counts_RG: NDArray[Any]) -> Floats:
    """Running share from the highest cell down, from 0 to 1: float64 `[R, G + 1]`."""
    running = np.cumsum(counts_RG[:, ::-1], axis=1, dtype=np.float64)
    return share(np.concatenate([np.zeros_like(running[:, :1]), running], axis=1))


def _concatenate(arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
    parts = [array for array in arrays if array.size]
    return np.concatenate(parts) if parts else np.zeros(0)
