"""Pixels to maps and scores, in forward passes of one fixed shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mrkd.config import PoolConfig
from mrkd.data.preprocess import Decoded, Preprocessor
from mrkd.data.roi import Roi
from mrkd.model.detector import Detector, Joined, detect, infer
from mrkd.model.inference.regions import inside
from mrkd.model.inference.tile_canvas import Canvas

BATCH_SIZE = PoolConfig.batch_size


@dataclass(frozen=True)
class Scored:
    """One image's result.

    Args:
        decoded: the image.
        anomaly_map: float32 `[S, S]` at the model's size, letterbox borders included; where the
            model takes an image in tiles `[H, W]` at the canvas' size.
        image_score: a float32 value.
        raw_scores: the parts of the score, `detector.Joined.raw_scores`.
        reduced_map: the map at the size that is stored, float32 `[s, s]`.
        roi: the model's region of interest, bool `[S, S]`, letterbox borders outside; None: all.
    """

    decoded: Decoded
    anomaly_map: NDArray[np.float32]
    image_score: float
    raw_scores: NDArray[np.float32]
    reduced_map: NDArray[np.float32]
    roi: NDArray[np.bool_] | None = None

    @property
    def inside(self) -> NDArray[np.float32]:
        """The part of the map that shows the image: letterbox borders left out."""
        assert self.decoded.geometry is not None
        return inside(self.anomaly_map, self.decoded.geometry)

    @property
    def peak(self) -> float:
        """The map's maximum, inside the image and the region of interest."""
        return float(self._counted.max())

    @property
    def map_mean(self) -> float:
        """The map's mean, inside the image and the region of interest."""
        return float(self._counted.mean(dtype=np.float64))

    @property
    def _counted(self) -> NDArray[np.float32]:
        return self.inside if self.roi is None else self.anomaly_map[self.roi]


def score_images(
    model: Detector,
    decoded: Iterable[Decoded],
    *,
    batch_size: int = BATCH_SIZE,
    map_size: int | None = None,
    precision: torch.dtype | None = None,
) -> Iterator[Scored]:
    """Map and score of each image, in order, as they come.

    Tiles of one image and the next share a batch; one image's map of all tiles is held at a time.

    Args:
        model: in eval mode, on the device to use.
        decoded: images without an error.
        batch_size: the one shape of all forward passes.
        map_size: longest side of `reduced_map`; None, or more than the map has: the full map.
        precision: precision of the student, float32 or, by autocast, float16; None: the one that
            the model's thresholds are made in.

    Raises:
        ValueError: an image has an error, another size than the model's, or an original of another
            size than the model's region of interest (`within` makes that an error).
    """
    run = _Run(model, batch_size, precision or getattr(torch, model.config.precision))
    queue = iter(decoded)
    if model.config.tiles:
        yield from _tiled(run, queue, map_size)
        return
    roi = None if model.pixel_roi is None else model.pixel_roi.cpu().numpy() > 0
    while batch := list(islice(queue, batch_size)):
        joined = run.infer([_checked(model, image) for image in batch])
        reduced = _reduced(joined.anomaly_map, map_size)
        arrays = (
            joined.anomaly_map.float().cpu().numpy(),
            joined.image_score.float().tolist(),
            joined.raw_scores.float().cpu().numpy(),
            reduced.cpu().numpy(),
        )
        for result in zip(batch, *arrays, strict=False):
            yield Scored(*result, roi)


@dataclass(frozen=True)
class _Run:
    """Forward passes of one shape."""

    model: Detector
    batch_size: int
    precision: torch.dtype

    @property
    def place(self) -> torch.device:
        return next(self.model.parameters()).device

    def infer(self, squares: Sequence[NDArray[np.uint8]]) -> Joined:
        """`infer` of at most a batch of squares; more rows than squares come back."""
        with self._autocast():
            return infer(self.model, self._batch(squares))

    def maps(self, squares: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Each detector's map of at most a batch of squares, `[B, K, S, S]`."""
        with self._autocast():
            return detect(self.model, self._batch(squares))[0]

    def _batch(self, squares: Sequence[NDArray[np.uint8]]) -> Tensor:
        size = self.model.config.image_size
        pixels_BHW3 = np.zeros((self.batch_size, size, size, 3), np.uint8)
        for row, square in zip(pixels_BHW3, squares, strict=False):
            row[:] = square
        return torch.from_numpy(pixels_BHW3).to(self.place)

    def _autocast(self) -> torch.autocast:
        enabled = self.precision is not torch.float32
        return torch.autocast(self.place.type, self.precision, enabled=enabled)


def _tiled(run: _Run, queue: Iterator[Decoded], map_size: int | None) -> Iterator[Scored]:
    """Images that are scored in tiles."""
    decoder = Preprocessor.of(run.model.config)
    tiles = (
        (image, number, square)
        for image in queue
        for number, square in enumerate(_checked(run.model, image))
    )
    while batch := list(islice(tiles, run.batch_size)):
        maps_BKSS = run.maps([square for _, _, square in batch])
        for (image, number, _), tile_KSS in zip(batch, maps_BKSS.float(), strict=False):
            assert image.geometry is not None
            tiling = decoder.tiling(image.geometry.original)
            if number == 0:
                canvas = Canvas(tiling, len(tile_KSS), run.place)
            canvas.add(number, tile_KSS)
            if number + 1 == len(tiling):
                with torch.inference_mode():
                    whole = run.model.join(canvas.maps_KHW[None])
                yield Scored(
                    image,
                    whole.anomaly_map[0].cpu().numpy(),
                    float(whole.image_score),
                    whole.raw_scores[0].cpu().numpy(),
                    _reduced(whole.anomaly_map, map_size)[0].cpu().numpy(),
                )


def _checked(model: Detector, image: Decoded) -> NDArray[np.uint8]:
    """The pixels of an image that the model can take."""
    config = model.config
    shape: tuple[int, ...] = (config.image_size, config.image_size, 3)
    if config.tiles and image.geometry:
        shape = (len(Preprocessor.of(config).tiling(image.geometry.original)), *shape)
    if image.pixels is None or image.pixels.shape != shape:
        raise ValueError(f"{image.image_uri}: {image.error_kind or 'pixels of another size'}")
    if image is not within(model.roi, image):
        raise ValueError(f"{image.image_uri}: not of the region of interest's size")
    return image.pixels


def within(roi: Roi | None, image: Decoded) -> Decoded:
    """The image itself, or its error where the region of interest is drawn for another size."""
    misfit = roi.misfit(image.geometry.original) if roi and image.geometry else ""
    if not misfit:
        return image
    return replace(image, pixels=None, error_kind="unsupported", error_message=misfit)


def _reduced(map_BHW: Tensor, map_size: int | None) -> Tensor:
    """The mean over the area of each stored pixel, computed where the map lies."""
    height, width = map_BHW.shape[-2:]
    if map_size is None or map_size >= max(height, width):
        return map_BHW.float()
    shape = (min(map_size, height), min(map_size, width))
    return F.interpolate(map_BHW[:, None].float(), shape, mode="area")[:, 0]
