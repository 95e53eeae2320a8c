"""Protocol and base of the models that score images, and the one path from pixels to a score.

Shape letters: B batch, K detectors' maps, H W the input's size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrkd.config import ModelConfig
from mrkd.data import images
from mrkd.data.roi import Roi
from mrkd.errors import ConfigError
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


class TeacherModel(nn.Module):
    """Base of the detectors: frozen teacher, region of interest, feature statistics.

    Args:
        config: the model's configuration.
        teacher: frozen; may be shared by any number of models. It is not among the parameters
            that `trained_state` gives and never leaves eval mode.
        roi: region of every image in which the part lies; None: everywhere.
        num_levels: number of the teacher's levels that are standardised; None: all.

    Attributes:
        pixel_roi: the region at input size, float32 `[H, W]` of 0 and 1; None without one. It and
            the levels' are made of `roi`, and not among what `trained_state` gives.

    Raises:
        CategoryError: the region is too small for the model's size.
        ConfigError: there is a region of interest and the model takes tiles.
    """

    least_variation: ClassVar[float] = 0.0
    """Least standard deviation of a channel, as a share of its mean."""
    pixel_roi: Tensor | None

    def __init__(
        self, config: ModelConfig, teacher: Teacher, roi: Roi | None, num_levels: int | None = None
    ) -> None:
        super().__init__()
        if roi is not None and config.tiles:
            raise ConfigError(
                f"model.tiles is {config.tiles} and [roi] draws a region: tiles are inspected "
                "whole; drop [roi] or set model.tiles to 0"
            )
        self.config, self.teacher, self.roi = config, teacher, roi
        self.register_buffer("pixel_roi", pixel_region(config, roi), persistent=False)
        if self.pixel_roi is not None:
            for n, stride in enumerate(teacher.strides):
                # A cell is inside if any of its area is: a defect at the edge has a cell.
                level_roi = F.max_pool2d(self.pixel_roi[None, None], stride)[0, 0]
                self.register_buffer(f"level_roi_{n}", level_roi, persistent=False)
        for n, c in enumerate(teacher.channels[:num_levels]):
            self.register_buffer(f"feature_mean_{n}", torch.zeros(1, c, 1, 1))
            self.register_buffer(f"feature_std_{n}", torch.ones(1, c, 1, 1))

    @property
    def all_level_roi(self) -> tuple[Tensor, ...] | None:
        """The region at every level, shallow to deep: float32 `[h_l, w_l]` of 0 and 1."""
        if self.roi is None:
            return None
        return tuple(self.get_buffer(f"level_roi_{n}") for n in range(len(self.teacher.strides)))

    @torch.no_grad()
    def teacher_features(self, images_B3HW: Tensor) -> list[Tensor]:
        """The teacher's raw features, all levels: `[B, C_l, h_l, w_l]`, shallow to deep.

        Outside the region of interest it sees 0, the mean colour of its own training.
        """
        if self.pixel_roi is not None:
            images_B3HW = images_B3HW * self.pixel_roi
        features: list[Tensor] = self.teacher(images_B3HW)
        return features

    def set_feature_statistics(self, statistics: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Sets mean and standard deviation per channel of each standardised level, `[C_l]` both."""
        for n, (mean, std) in enumerate(statistics):
            # A channel that never fires stays as it is.
            least = (self.least_variation * mean.abs()).clamp_min(1e-6)
            self.get_buffer(f"feature_mean_{n}").copy_(mean.view(1, -1, 1, 1))
            self.get_buffer(f"feature_std_{n}").copy_(torch.maximum(std, least).view(1, -1, 1, 1))

    def normalise(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Raw features of the levels, standardised per channel: float32."""
        return [
            (t.float() - self.get_buffer(f"feature_mean_{n}")) / self.get_buffer(f"feature_std_{n}")
            for n, t in enumerate(levels)
        ]

    def trained_state(self) -> dict[str, Tensor]:
        """All parameters and buffers that training made: all but the teacher's."""
        return {k: v for k, v in self.state_dict().items() if "teacher." not in k}

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Sets what `trained_state` gave.

        Raises:
            RuntimeError: a key is missing, unknown or of another shape.
        """
        teacher = {k: v for k, v in self.state_dict().items() if "teacher." in k}
        self.load_state_dict({**state, **teacher}, strict=True)


def pixel_region(config: ModelConfig, roi: Roi | None) -> Tensor | None:
    """A region of interest at input size: float32 `[H, W]` of 0 and 1; None: everywhere."""
    if roi is None:
        return None
    size = config.image_size
    return torch.from_numpy(roi.at(images.Geometry(roi.size, (size, size), config.resize))).float()


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
