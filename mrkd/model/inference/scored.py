"""Results of scored images, whose full maps stay on the GPU until they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrkd.data.preprocess import Decoded
from mrkd.model.inference.regions import inside


class Measured(NamedTuple):
    """Figures of a map that a GPU computed, see `Scored`."""

    peak: float
    map_mean: float
    is_finite: bool


@dataclass(frozen=True)
class Scored:
    """One image's result.

    Args:
        decoded: the image.
        whole: the map at the model's size, letterbox borders included, float32 `[S, S]`; where the
            model takes an image in tiles `[H, W]` at the canvas' size.
        image_score: a float32 value.
        raw_scores: the parts of the score, `detector.Joined.raw_scores`.
        reduced_map: the map at the size that is stored, float32 `[s, s]`.
        roi: the model's region of interest, bool `[S, S]`, letterbox borders outside; None: all.
        measured: figures of the map, computed where it lies; None: computed when asked for.
    """

    decoded: Decoded
    whole: Tensor
    image_score: float
    raw_scores: NDArray[np.float32]
    reduced_map: NDArray[np.float32]
    roi: NDArray[np.bool_] | None = None
    measured: Measured | None = None

    @property
    def anomaly_map(self) -> NDArray[np.float32]:
        """The map: float32 `[S, S]`, or `[H, W]`. Each call copies it from a GPU."""
        if not self.whole.is_cuda:
            return np.asarray(self.whole.numpy())
        # Its pass is over: on a stream of its own the copy does not wait for the next pass.
        with torch.cuda.stream(torch.cuda.Stream(self.whole.device)):
            return np.asarray(self.whole.cpu().numpy())

    @property
    def inside(self) -> NDArray[np.float32]:
        """The part of the map that shows the image: letterbox borders left out."""
        assert self.decoded.geometry is not None
        return inside(self.anomaly_map, self.decoded.geometry)

    @property
    def peak(self) -> float:
        """The map's maximum, inside the image and the region of interest."""
        return self.measured.peak if self.measured else float(self._counted.max())

    @property
    def map_mean(self) -> float:
        """The map's mean, inside the image and the region of interest."""
        if self.measured:
            return self.measured.map_mean
        return float(self._counted.mean(dtype=np.float64))

    @property
    def is_finite(self) -> bool:
        """Whether all of the map's values are finite."""
        if self.measured:
            return self.measured.is_finite
        return bool(np.isfinite(self.anomaly_map).all())

    @property
    def _counted(self) -> NDArray[np.float32]:
        return self.inside if self.roi is None else self.anomaly_map[self.roi]
