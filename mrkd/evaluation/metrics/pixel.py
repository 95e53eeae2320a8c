"""Metrics of anomaly maps, exact or from bins of equal count, each image kept by itself.

Legend: N images, C of them at once, R resamples, G cells of the grid that the images share.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label

from mrkd.evaluation.metrics.bootstrap import Floats, Metric, Weights, area, share

PixelMetric = Literal["pixel_auroc", "aupro"]

# Values of the good pixels between which the grid that resamples share has its cells.
_GRID = 1024

# Values of defects that the curve of a figure from bins has vertices at: it goes straight between
# them, within 1e-7 of one with a vertex at each.
_VERTICES = 2**16

# C: cells of so many images are held, 17 MB for each of three curves.
_CHUNK = 2048


class _Values(NamedTuple):
    """Map values of the good pixels of an image or of one of its regions, in rising order."""

    values: NDArray[Any]
    weight: float = 1.0
    """Pixels that each of the values represents."""

    def thinned(self, bins: int | None) -> _Values:
        """At most `bins` of the values, evenly spaced by rank."""
        if bins is None or len(self.values) <= bins:
            return self
        return _Values(_evenly(self.values, bins), self.weight * len(self.values) / bins)

    def found_by(self, metric: PixelMetric) -> float:
        """The amount that each value of a region adds to the curve of the metric."""
        return 1 / len(self.values) if metric == "aupro" else self.weight


class _Image(NamedTuple):
    """Kept values of one image's map."""

    good: _Values
    regions: tuple[_Values, ...]

    def thinned(self, bins: int | None) -> _Image:
        """With at most `bins` values for the good pixels and for each region."""
        return _Image(self.good.thinned(bins), tuple(r.thinned(bins) for r in self.regions))

    @property
    def num_bytes(self) -> int:
        """Number of bytes of its values."""
        return self.good.values.nbytes + sum(r.values.nbytes for r in self.regions)


class PixelHistogram:
    """Map values of good pixels and of defective regions, in bins of equal count for each image.

    An image keeps at most `bins` values for its good pixels and for each of its regions, each for
    equally many pixels: with 4096, 16 KB an image, and figures within 1e-3 of the exact ones
    whatever the values are. With None it keeps all.

    Values of all images take at most `kept_bytes`, as far as one for each region allows: beyond,
    all go on with a third of the bins, so that 10,000 images of float32 have 4096, 100,000 have
    455. An image takes less than 1 KB besides; a figure or an interval, for a moment, as many
    bytes again, an interval also as many as the weights and, with 1000 resamples, 300 MB.

    Nothing is summed up before the end, so that a figure can be taken over some of the images and
    its interval by drawing images anew.
    """

    def __init__(self, bins: int | None = 4096, *, kept_bytes: int = 2**28) -> None:
        self._bins = bins
        self._kept_bytes = kept_bytes
        self._num_bytes = 0
        self._images: list[_Image] = []
        self._edges: NDArray[Any] | None = None
        self._chunk: tuple[int, dict[str, NDArray[np.float32]]] | None = None

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
        regions = tuple(_Values(np.sort(values)) for values in _regions(anomaly_map, gt_mask))
        image = _Image(_Values(np.sort(anomaly_map[good_pixels])), regions).thinned(self._bins)
        self._images.append(image)
        self._num_bytes += image.num_bytes
        self._edges = self._chunk = None
        # A third: of three values the middle one keeps its rank, two have none in the middle.
        while self._bins and self._bins >= 3 and self._num_bytes > self._kept_bytes:
            self._bins //= 3
            self._images = [image.thinned(self._bins) for image in self._images]
            self._num_bytes = sum(image.num_bytes for image in self._images)

    def figure(
        self,
        metric: PixelMetric,
        images: Sequence[int] | NDArray[np.int64] | None = None,
        *,
        fpr_limit: float = 0.3,
    ) -> Metric:
        """The metric over all images, or over those that are numbered, in order of adding.

        `pixel_auroc` is the chance that a defective pixel lies above a good one. `aupro` is the
        mean overlap with the defective regions, the 8-connected parts of each mask, against the
        share of good pixels called over the whole set, at all distinct values; its area up to
        `fpr_limit` is divided by it.

        Source: spec section 8. Differs: RD4AD's code steps through 200 thresholds and averages
        AUPRO by image.
        """
        limit = _limit(metric, fpr_limit)
        chosen = self._images if images is None else [self._images[n] for n in images]
        values = _sorted(region.values for image in chosen for region in image.regions)
        if not values.size or not any(image.good.values.size for image in chosen):
            kind = "defective" if values.size else "good"
            return Metric(None, reason=f"all pixels of the {len(chosen)} images are {kind}")
        # Between two values found in defects only good pixels are called: the curve is flat
        # there, so that the vertices just above and at each such value are its whole shape.
        edges = np.unique(values if self._bins is None else _evenly(values, _VERTICES))
        good, found = np.zeros((2, 2 * len(edges) + 1))
        for image in chosen:
            np.add.at(good, _cells(edges, image.good), image.good.weight)
            for region in image.regions:
                np.add.at(found, _cells(edges, region), region.found_by(metric))
        return Metric.of(float(area(_risen(good), _risen(found), limit)))

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
            weights_RN: weights of all images; those of other images count as 0.
            fpr_limit: largest false-positive rate of `aupro`.

        Returns:
            The figure without an interval; float64 `[R]`, empty where the figure has no value.
        """
        figure = self.figure(metric, images, fpr_limit=fpr_limit)
        if figure.value is None:
            return figure, np.zeros(0)
        drawn = np.zeros((len(weights_RN) + 1, len(self)), np.uint16)
        drawn[0, images] = 1
        np.multiply(weights_RN, drawn[0], out=drawn[1:])
        binned = self.distribution(metric, drawn, fpr_limit=fpr_limit)
        return figure, binned[1:] + (figure.value - binned[0])

    def distribution(
        self, metric: PixelMetric, weights_RN: Weights, *, fpr_limit: float = 0.3
    ) -> Floats:
        """The metric under each row of weights: float64 `[R]`.

        An image of weight 0 is left out. Values go to a grid that all images share, so that
        resamples cost one product of matrices for every 2048 images; made for intervals, 1e-3 off
        at most for AUROC.
        """
        limit = _limit(metric, fpr_limit)
        good = found = np.zeros(1)
        for start in range(0, len(self), _CHUNK):
            weights = weights_RN[:, start : start + _CHUNK].astype(np.float32)
            cells = self._cells_of(start)
            good, found = good + weights @ cells["good"], found + weights @ cells[metric]
        return area(_risen(good), _risen(found), limit)

    def _cells_of(self, start: int) -> dict[str, NDArray[np.float32]]:
        """Weights of the images from `start` on in each cell, `[C, G]`: good, and by metric.

        Cells are single values of good pixels, evenly spaced by rank, and the gaps between them: a
        value that many pixels share has a cell to itself. The last answer is remembered, which for
        up to 2048 images is the only one.
        """
        if self._chunk is None or self._chunk[0] != start:
            if self._edges is None:
                good = _sorted(image.good.values for image in self._images)
                self._edges = np.unique(_evenly(good, _GRID))
            images, num_cells = self._images[start : start + _CHUNK], 2 * len(self._edges) + 1
            cells = {
                kind: np.zeros((len(images), num_cells), np.float32)
                for kind in ("good", *get_args(PixelMetric))
            }
            for n, image in enumerate(images):
                counts = np.bincount(_cells(self._edges, image.good), minlength=num_cells)
                cells["good"][n] = counts * image.good.weight
                for region in image.regions:
                    counts = np.bincount(_cells(self._edges, region), minlength=num_cells)
                    for metric in get_args(PixelMetric):
                        cells[metric][n] += counts * region.found_by(metric)
            self._chunk = start, cells
        return self._chunk[1]


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


def _sorted(arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """All values of all arrays in rising order."""
    values = np.concatenate([np.zeros(0, np.float16), *arrays])
    values.sort()
    return values


def _evenly(values: NDArray[Any], num: int) -> NDArray[Any]:
    """At most `num` of the rising values, evenly spaced by rank."""
    if len(values) <= num:
        return values
    return values[((np.arange(num) + 0.5) * len(values) / num).astype(np.int64)]


def _cells(edges: NDArray[Any], kept: _Values) -> NDArray[np.int64]:
    """The cell of each value: an edge, or a gap between two edges."""
    below = np.searchsorted(edges, kept.values)
    cell: NDArray[np.int64] = 2 * below + (edges.take(below, mode="clip") == kept.values)
    return cell


def _risen(counts: NDArray[Any]) -> Floats:
    """Running share from the highest cell down, from 0 to 1: float64 `[..., G + 1]`."""
    running = np.cumsum(counts[..., ::-1], axis=-1, dtype=np.float64)
    return share(np.concatenate([np.zeros_like(running[..., :1]), running], axis=-1))
