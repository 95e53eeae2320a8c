"""Protocol of the models that score images, and the one path from pixels to a score.

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
    """The joint result of a model's detectors.

    Args:
        anomaly_map: float32 `[B, H, W]`, higher is more anomalous, zero outside the region of
            interest.
        image_score: float32 `[B]`.
        raw_scores: float32 `[B, S]`, the parts of the score, each on its own scale.
    """

    anomaly_map: Tensor
    image_score: Tensor
    raw_scores: Tensor


class Detector(Protocol):
    """A model that `infer` scores with: MRKD, an ensemble, or a baseline."""

    config: ModelConfig
    teacher: Teacher
    roi: Roi | None
    pixel_roi: Tensor | None
    training: bool

    def __call__(self, images_B3HW: Tensor) -> Any:
        """The argument of `maps`: `from_features` of the teacher's features of the images."""

    def from_features(self, levels: Sequence[Tensor]) -> Any:
        """The argument of `maps`, from the teacher's raw features of all levels."""

    def maps(self, found: Any) -> Tensor:
        """Each detector's smoothed map at input size: float32 `[B, K, H, W]`."""

    def join(self, maps_BKHW: Tensor, found: Any = None) -> Joined:
        """One map and one score; `found` is what `maps` was given, None for an image in tiles."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """The model's weights; the first one's device is the model's."""


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
    """`infer` without the join: each detector's map, `[B, K, H, W]`, and the argument of `maps`."""
    size = model.config.image_size
    if model.training:
        raise ValueError("the model is in training mode; call eval() first")
    if tuple(pixels_BHW3.shape[1:]) != (size, size, 3):
        raise ValueError(f"pixels are {tuple(pixels_BHW3.shape)}, the model takes {size} px")
    found = model(images.to_tensor(pixels_BHW3, model.teacher.normalisation))
    # Under a caller's autocast the student alone runs in fewer digits, never map and score.
    with torch.autocast(pixels_BHW3.device.type, enabled=False):
        return model.maps(found), found
