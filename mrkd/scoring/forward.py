"""Pixels to maps and scores, in forward passes of one fixed shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mrkd.config import PoolConfig
from mrkd.model import MRKD, infer
from mrkd.roi import Roi
from mrkd.scoring.decoding import Decoded
from mrkd.scoring.regions import inside

BATCH_SIZE = PoolConfig.batch_size


@dataclass(frozen=True)
class Scored:
    """One image's result.

    Args:
        decoded: the image.
        anomaly_map: float32 `[S, S]` at the model's size, letterbox borders included.
        image_score: a float32 value.
        reduced_map: the map at the size that is stored, float32 `[s, s]`.
        roi: the model's region of interest, bool `[S, S]`, letterbox borders outside; None: all.
    """

    decoded: Decoded
    anomaly_map: NDArray[np.float32]
    image_score: float
    reduced_map: NDArray[np.float32]
    roi: NDArray[np.bool_] | None = None

    @property
    def inside(self) -> NDArray[np.float32]:
        """The part of the map that shows the picture: letterbox borders left out."""
        assert self.decoded.geometry is not None
        return inside(self.anomaly_map, self.decoded.geometry)

    @property
    def peak(self) -> float:
        """The map's maximum, inside the picture and the region of interest."""
        return float((self.inside if self.roi is None else self.anomaly_map[self.roi]).max())


def score_images(
    model: MRKD,
    decoded: Iterable[Decoded],
    *,
    batch_size: int = BATCH_SIZE,
    map_size: int | None = None,
    precision: torch.dtype = torch.float32,
) -> Iterator[Scored]:
    """Map and score of each image, in order, as they come.

    Args:
        model: in eval mode, on the device to use.
        decoded: images without an error.
        batch_size: the one shape of all forward passes.
        map_size: side of `reduced_map`; None, or more than the model's size: the full map.
        precision: float32, or bfloat16 by autocast.

    Raises:
        ValueError: an image has an error, another size than the model's, or an original of another
            size than the model's region of interest (`within` makes that an error).
    """
    size = model.config.image_size
    roi = None if model.pixel_roi is None else model.pixel_roi.cpu().numpy() > 0
    place = next(model.parameters()).device
    queue = iter(decoded)
    while batch := list(islice(queue, batch_size)):
        pixels_BHW3 = np.zeros((batch_size, size, size, 3), np.uint8)
        for row, image in zip(pixels_BHW3, batch, strict=False):
            if image.pixels is None or image.pixels.shape != row.shape:
                raise ValueError(
                    f"{image.image_uri}: {image.error_kind or 'pixels of another size'}"
                )
            if image is not within(model.roi, image):
                raise ValueError(f"{image.image_uri}: not of the region of interest's size")
            row[:] = image.pixels
        with torch.autocast(place.type, precision, enabled=precision is not torch.float32):
            map_BHW, score_B = infer(model, torch.from_numpy(pixels_BHW3).to(place))
        reduced = _reduced(map_BHW, map_size)
        arrays = (map_BHW.float().cpu().numpy(), score_B.float().tolist(), reduced.cpu().numpy())
        for result in zip(batch, *arrays, strict=False):
            yield Scored(*result, roi)


def within(roi: Roi | None, image: Decoded) -> Decoded:
    """The image itself, or its error where the region of interest is drawn for another size."""
    misfit = roi.misfit(image.geometry.original) if roi and image.geometry else ""
    if not misfit:
        return image
    return replace(image, pixels=None, error_kind="unsupported", error_message=misfit)


def _reduced(map_BHW: Tensor, map_size: int | None) -> Tensor:
    """The mean over the area of each stored pixel, computed where the map lies."""
    if map_size is None or map_size >= map_BHW.shape[-1]:
        return map_BHW.float()
    return F.interpolate(map_BHW[:, None].float(), (map_size, map_size), mode="area")[:, 0]
