"""Pixels to maps and scores, in forward passes of one fixed shape."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mrkd.config import PoolConfig
from mrkd.data.preprocess import Decoded, Preprocessor
from mrkd.data.roi import Roi
from mrkd.errors import MemoryShortError
from mrkd.model.detector import Detector, Joined, detect, infer
from mrkd.model.inference import transfers
from mrkd.model.inference.scored import Scored
from mrkd.model.inference.tile_canvas import Canvas
from mrkd.model.memory import Pieces, attempt

BATCH_SIZE = PoolConfig.batch_size


def score_images(
    model: Detector,
    decoded: Iterable[Decoded],
    *,
    batch_size: int | None = None,
    map_size: int | None = None,
    precision: torch.dtype | None = None,
) -> Iterator[Scored]:
    """Map and score of each image, in order, as they come.

    Tiles of one image and the next share a batch; one image's map of all tiles is held at a time.

    Args:
        model: in eval mode, on the device to use.
        decoded: images without an error.
        batch_size: the one shape of all forward passes, halved where memory runs out; None:
            `batch_size_on` the model's device.
        map_size: longest side of `reduced_map`; None, or more than the map has: the full map.
        precision: precision of the student, float32 or, by autocast, float16; None: the one that
            the model's thresholds are made in.

    Raises:
        MemoryShortError: memory does not suffice for one image at a time.
        ValueError: an image has an error, another size than the model's, or an original of another
            size than the model's region of interest (`within` makes that an error).
    """
    found = score_each(
        model, decoded, batch_size=batch_size, map_size=map_size, precision=precision
    )
    for one in found:
        if isinstance(one, Decoded):
            raise MemoryShortError(f"{one.image_uri}: {one.error_message}")
        yield one


def score_each(
    model: Detector,
    decoded: Iterable[Decoded],
    *,
    batch_size: int | None = None,
    map_size: int | None = None,
    precision: torch.dtype | None = None,
) -> Iterator[Scored | Decoded]:
    """`score_images`, but an image that memory does not suffice for comes as an error of its own.

    Arguments and `ValueError` are those of `score_images`.
    """
    place = next(model.parameters()).device
    run = _Run(
        model,
        Pieces(batch_size or batch_size_on(place)),
        precision or getattr(torch, model.config.precision),
    )
    queue = iter(decoded)
    if model.config.tiles:
        yield from _tiled(run, queue, map_size)
    else:
        yield from _whole(run, queue, map_size)


def batch_size_on(place: torch.device, pool: PoolConfig | None = None) -> int:
    """Images of a forward pass on a device, by a run's config or by default."""
    pool = pool or PoolConfig()
    return pool.cuda_batch_size if place.type == "cuda" else pool.batch_size


@dataclass(frozen=True)
class _Run:
    """Forward passes of one shape, which is smaller from a lack of memory on."""

    model: Detector
    pieces: Pieces
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
            return detect(self.model, self._batch(squares))[0].float()

    def _batch(self, squares: Sequence[NDArray[np.uint8]]) -> Tensor:
        size = self.model.config.image_size
        shape = (self.pieces.size, size, size, 3)
        on_cuda = self.place.type == "cuda"
        pixels_BHW3 = torch.zeros(shape, dtype=torch.uint8, pin_memory=on_cuda)
        for row, square in zip(pixels_BHW3.numpy(), squares, strict=False):
            row[:] = square
        return transfers.to_gpu(pixels_BHW3, self.place) if on_cuda else pixels_BHW3

    def _autocast(self) -> torch.autocast:
        enabled = self.precision is not torch.float32
        return torch.autocast(self.place.type, self.precision, enabled=enabled)


def _whole(run: _Run, queue: Iterator[Decoded], map_size: int | None) -> Iterator[Scored | Decoded]:
    """Images that are scored in one piece; on CUDA the next pass runs while one is read."""
    roi = None if run.model.pixel_roi is None else run.model.pixel_roi.cpu().numpy() > 0
    ahead = 1 if run.place.type == "cuda" else 0
    waiting: deque[Iterator[Scored | Decoded]] = deque()
    held: list[object] = []  # until the next pass is over: pages given back are faulted in anew

    def started(batch: Sequence[Decoded]) -> Iterator[Scored | Decoded]:
        joined = run.infer([_checked(run.model, image) for image in batch])
        reduced = _reduced(joined.anomaly_map, map_size)
        if run.place.type == "cuda":
            return transfers.scored(batch, joined, reduced, run.model.pixel_roi, roi)
        arrays = (
            joined.anomaly_map.float(),
            joined.image_score.float().tolist(),
            joined.raw_scores.float().numpy(),
            reduced.numpy(),
        )
        held[:] = arrays
        return (Scored(*result, roi) for result in zip(batch, *arrays, strict=False))

    while batch := list(islice(queue, run.pieces.size)):
        for part, results in run.pieces.over(batch, started):
            waiting.append(iter(map(_short, part)) if results is None else results)
            if len(waiting) > ahead:
                yield from waiting.popleft()
    while waiting:
        yield from waiting.popleft()


def _tiled(run: _Run, queue: Iterator[Decoded], map_size: int | None) -> Iterator[Scored | Decoded]:
    """Images that are scored in tiles."""
    decoder = Preprocessor.of(run.model.config)
    tiles = (
        (image, number, square)
        for image in queue
        for number, square in enumerate(_checked(run.model, image))
    )
    while batch := list(islice(tiles, run.pieces.size)):
        for part, maps in run.pieces.over(batch, lambda some: run.maps([one[2] for one in some])):
            found = [None] * len(part) if maps is None else maps
            for (image, number, _), tile_KSS in zip(part, found, strict=False):
                assert image.geometry is not None
                tiling = decoder.tiling(image.geometry.original)
                if number == 0:
                    canvas = attempt(partial(Canvas, tiling, _num_maps(tile_KSS), run.place))
                if tile_KSS is None or canvas is None:
                    canvas = None  # the rest of the image is of no use
                else:
                    canvas.add(number, tile_KSS)
                if number + 1 == len(tiling):
                    whole = canvas and attempt(partial(_joined, run, image, canvas, map_size))
                    yield whole or _short(image)


def _num_maps(tile_KSS: Tensor | None) -> int:
    return 0 if tile_KSS is None else len(tile_KSS)


@torch.inference_mode()
def _joined(run: _Run, image: Decoded, canvas: Canvas, map_size: int | None) -> Scored:
    """The result of an image whose tiles are all on its canvas."""
    whole = run.model.join(canvas.maps_KHW[None])
    return Scored(
        image,
        whole.anomaly_map[0].float().cpu(),
        float(whole.image_score),
        whole.raw_scores[0].cpu().numpy(),
        _reduced(whole.anomaly_map, map_size)[0].cpu().numpy(),
    )


def _short(image: Decoded) -> Decoded:
    """The image as an error: memory does not suffice for it alone."""
    message = (
        "out of memory with this image alone: give the scorer more of a GPU "
        "(pool.gpus_per_scorer) or more memory"
    )
    return replace(image, pixels=None, error_kind="internal", error_message=message)


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
