"""What scores an image, whatever it is made of, and the one path from pixels to its score.

Shape letters: B batch, K detectors' maps, H W the input's size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mrkd.config import ModelConfig
from mrkd.data import images
from mrkd.data.roi import Roi
from mrkd.model.teacher import Teacher


class Joined(NamedTuple):
    """What the detectors of a model say together.

    Args:
        anomaly_map: float32 `[B, H, W]`, higher is more anomalous, zero outside the region of
            interest.
        image_score: float32 `[B]`.
        raw_scores: float32 `[B, S]`, what the score is made of, each by its own measure.
    """

    anomaly_map: Tensor
    image_score: Tensor
    raw_scores: Tensor


class Detector(Protocol):
    """What `infer` scores with: MRKD, an ensemble, or what they are compared with."""

    config: ModelConfig
    teacher: Teacher
    roi: Roi | None
    pixel_roi: Tensor | None
    training: bool

    def __call__(self, images_B3HW: Tensor) -> Any:
        """Whatever `maps` takes: `from_features` of the teacher's features of the images."""

    def from_features(self, levels: Sequence[Tensor]) -> Any:
        """The same from the teacher's raw features, all levels."""

    def maps(self, found: Any) -> Tensor:
        """Each detector's smoothed map at input size: float32 `[B, K, H, W]`."""

    def join(self, maps_BKHW: Tensor, found: Any = None) -> Joined:
        """One map and one score; `found` is what the maps are of, None for a picture in tiles."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights; the first tells its device."""


@torch.inference_mode()
def infer(model: Detector, pixels_BHW3: Tensor) -> Joined:
    """Map and score of a batch: the one scoring path, of calibration, evaluation and nights.

    Args:
        model: in eval mode, on the pixels' device.
        pixels_BHW3: uint8 RGB at the model's size, resized by its policy.

    Raises:
        ValueError: the model is in training mode, or the pixels are of another size.
    """
    maps_BKHW, found = detect(model, pixels_BHW3)
    with torch.autocast(pixels_BHW3.device.type, enabled=False):
        return model.join(maps_BKHW, found)


@torch.inference_mode()
def detect(model: Detector, pixels_BHW3: Tensor) -> tuple[Tensor, Any]:
    """`infer` but for its end: each detector's map, `[B, K, H, W]`, and what these are of."""
    size = model.config.image_size
    if model.training:
        raise ValueError("the model is in training mode; call eval() first")
    if tuple(pixels_BHW3.shape[1:]) != (size, size, 3):
        raise ValueError(f"pixels are {tuple(pixels_BHW3.shape)}, the model takes {size} px")
    found = model(images.to_tensor(pixels_BHW3, model.teacher.normalisation))
    # Under a caller's autocast the student alone runs in fewer digits, never map and score.
    with torch.autocast(pixels_BHW3.device.type, enabled=False):
        return model.maps(found), found
