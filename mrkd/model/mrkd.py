"""The whole network: frozen teacher, bottleneck, student with feature mask generation.

Shape letters: B batch, C channels, h w a level's size, H W the input's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mrkd import seeds
from mrkd.config import ModelConfig
from mrkd.data.roi import Roi
from mrkd.errors import ConfigError
from mrkd.model import anomaly_map as maps
from mrkd.model.detector import Joined, TeacherModel
from mrkd.model.feature_pairs import FeaturePairs, inside
from mrkd.model.layers import (
    Block,
    BottleneckBlock,
    ChannelReconstruction,
    Decoder,
    DecoderBlock,
    FeatureMaskGeneration,
    MultiScaleFusion,
    SimAM,
    SpatialReconstruction,
    conv_bn_relu,
    stage,
)
from mrkd.model.teacher import Teacher

MODEL_VERSION = 2
"""Raised when the same config, data and seed would give other weights than before."""

_DRAWS = (
    *(Tensor.uniform_, Tensor.normal_),
    *(nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_),
)
"""Functions by which torch's layers draw their initial weights."""
_NUM_LEVELS = 3
"""Levels of a backbone that the student uses; deeper ones are for cell Gaussians alone."""


def _shape(name: str, channels: Sequence[int]) -> tuple[Block, int, int, tuple[int, ...], int]:
    """A teacher's block, planes, blocks to embed and to decode, and width, to be repeated."""
    match name:
        case "resnet18":
            return DecoderBlock, 512, 2, (2, 2, 2), 64
        case "resnet50":
            return BottleneckBlock, 512, 3, (6, 4, 3), 64
        case "wide_resnet50_2":
            return BottleneckBlock, 512, 3, (6, 4, 3), 128
        case _:
            return DecoderBlock, 2 * channels[-1], 2, (2,) * len(channels), 64


class MRKD(TeacherModel):
    """Masked reverse knowledge distillation.

    Args:
        config: which parts are on and how features are compared.

    Raises:
        CategoryError: the region is too small for the model's size.
        ConfigError: the backbone's channels do not fit SCConv, a level does not exist, or there is
            a region of interest and the model takes tiles.

    Source: paper section 3, spec sections 1 to 7.
    """

    def __init__(self, config: ModelConfig, teacher: Teacher, roi: Roi | None = None) -> None:
        num_seen = len(config.taps) or _NUM_LEVELS
        super().__init__(config, teacher, roi, num_seen)
        self.num_seen = num_seen
        channels, strides = teacher.channels[: self.num_seen], teacher.strides[: self.num_seen]
        self.levels = tuple(n - 1 for n in config.levels) or tuple(range(len(channels)))
        if self.levels[-1] >= len(channels):
            raise ConfigError(
                f"model.levels is {list(config.levels)}: {config.backbone} has {len(channels)}"
            )
        _check_size(config, strides[-1])
        block, planes, num_embedding, num_decoder, width = _shape(teacher.name, channels)
        deepest = channels[-1]
        self.fusion = MultiScaleFusion(channels, strides)
        self.attention = nn.Sequential(
            self._spatial_channel_attention(deepest), SimAM() if config.simam else nn.Identity()
        )
        self.embedding = stage(
            block, deepest, planes, num_embedding, resample="down", base_width=width
        )
        self.decoder = Decoder(
            block,
            planes * block.expansion,
            channels,
            strides,
            num_decoder,
            levels=self.levels,
            base_width=width,
        )
        self.heads = nn.ModuleList(self._head(channels[n]) for n in self.levels)
        self.register_buffer("level_mean", torch.zeros(len(self.levels)))
        self.register_buffer("level_std", torch.ones(len(self.levels)))
        if config.gaussian:
            width = channels[self.levels[-1]]
            self.register_buffer("gaussian_mean", torch.zeros(width))
            self.register_buffer("gaussian_whitening", torch.eye(width))
            # Of the map's score and of the distance, on held-out good images.
            self.register_buffer("score_mean", torch.zeros(2))
            self.register_buffer("score_std", torch.ones(2))

    @property
    def level_roi(self) -> tuple[Tensor, ...] | None:
        """The region at the levels in use, as `all_level_roi`."""
        found = self.all_level_roi
        return found and tuple(found[n] for n in self.levels)

    def _spatial_channel_attention(self, channels: int) -> nn.Module:
        config = self.config
        if not config.scconv:
            return conv_bn_relu(channels, channels, 3)
        if channels % 8 or channels % config.sru_groups:
            raise ConfigError(
                f"{config.backbone}'s deepest level has {channels} channels: SCConv needs a "
                f"multiple of 8 and of model.sru_groups ({config.sru_groups})"
            )
        return nn.Sequential(
            SpatialReconstruction(channels, gate=config.sru_gate, groups=config.sru_groups),
            ChannelReconstruction(channels),
        )

    def _head(self, channels: int) -> nn.Module:
        if self.config.fmm:
            residual = self.config.generation == "residual"
            return FeatureMaskGeneration(channels, residual=residual)
        # A decoder stage ends in ReLU; signed features need a linear layer after it, which with
        # FMM on is FMM's own last convolution.
        return nn.Conv2d(channels, channels, 1) if self.teacher.signed else nn.Identity()

    def set_feature_statistics(self, statistics: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Sets mean and standard deviation per channel, `[C_l]` both, of the student's levels."""
        super().set_feature_statistics(statistics[: self.num_seen])

    def normalise(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Raw features to what student, loss and map see: float32, standardised per channel.

        Levels that are there for cell Gaussians alone are left out.
        """
        levels = levels[: self.num_seen]
        if self.config.feature_norm == "none":
            return [t.float() for t in levels]
        return super().normalise(levels)

    def student_features(
        self, levels: Sequence[Tensor], feature_masks: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """The student's rebuilding of the levels in use.

        Args:
            levels: normalised teacher features, all levels.
            feature_masks: per level in use `[B, 1, h_l, w_l]`, 0 where a pixel is hidden.
        """
        code = self.embedding(self.attention(self.fusion(levels)))
        decoded = self.decoder(code)
        if not self.config.fmm:
            return tuple(head(d) for head, d in zip(self.heads, decoded, strict=True))
        masks: Sequence[Tensor | None] = feature_masks or [None] * len(decoded)
        return tuple(head(d, m) for head, d, m in zip(self.heads, decoded, masks, strict=True))

    def pairs(
        self, levels: Sequence[Tensor], feature_masks: Sequence[Tensor] | None = None
    ) -> FeaturePairs:
        """Pairs of the levels in use, from raw teacher features of all levels."""
        normalised = self.normalise(levels)
        student = self.student_features(normalised, feature_masks)
        return FeaturePairs(tuple(normalised[n] for n in self.levels), student)

    from_features = pairs

    def forward(self, images_B3HW: Tensor) -> FeaturePairs:
        """float32 `[B, 3, H, W]`, normalised for the teacher, to pairs of the levels in use."""
        return self.pairs(self.teacher_features(images_B3HW))

    def join(self, maps_BKHW: Tensor, found: FeaturePairs | None = None) -> Joined:
        """The map itself, and its score."""
        score = self.image_score(maps_BKHW, found)
        return Joined(maps_BKHW[:, 0], score, score[:, None])

    def maps(self, found: FeaturePairs) -> Tensor:
        """The smoothed map at input size: float32 `[B, 1, H, W]`, higher is more anomalous.

        Zero outside the region of interest; a calibrated map may well be lower inside.
        """
        size = self.config.image_size
        return maps.anomaly_map(
            maps.level_maps(found, anchor=self.config.anchor),
            size=(size, size),
            combine=self.config.combine,
            mean=self.get_buffer("level_mean"),
            std=self.get_buffer("level_std"),
            roi=self.level_roi,
            sigma=self.config.smooth * size / 256,
            pixel_roi=self.pixel_roi,
        )

    def image_score(self, map_B1HW: Tensor, pairs: FeaturePairs | None = None) -> Tensor:
        """One number an image, of its pixels inside: float32 `[B]`, higher is more anomalous.

        It is that of the `maps` of the pairs, which are needed where `gaussian` is on.
        """
        score = self.map_score(map_B1HW)
        if not self.config.gaussian:
            return score
        assert pairs is not None
        both = torch.stack([score, self.gaussian_distance(pairs)])
        mean, std = self.get_buffer("score_mean"), self.get_buffer("score_std")
        of_map, of_gaussian = ((both - mean[:, None]) / std[:, None]).unbind()
        joined: Tensor = of_map + self.config.gaussian * of_gaussian
        return joined

    def map_score(self, map_B1HW: Tensor) -> Tensor:
        """The score of the map alone: float32 `[B]`."""
        return maps.image_score(
            map_B1HW,
            rule=self.config.image_score,
            top_share=self.config.top_share,
            mean_weight=self.config.mean_weight,
            roi=self.pixel_roi,
        )

    def gaussian_distance(self, pairs: FeaturePairs) -> Tensor:
        """Mahalanobis distance of the mean deepest feature from good ones': float32 `[B]`."""
        region = None if self.level_roi is None else self.level_roi[-1]
        mean_BC = inside(pairs.teacher[-1].float(), region).mean(2)
        away = mean_BC - self.get_buffer("gaussian_mean")
        distance: Tensor = (away @ self.get_buffer("gaussian_whitening")).norm(dim=1)
        return distance


def _check_size(config: ModelConfig, stride: int) -> None:
    """Refuses an image size whose deepest level is odd: halved and doubled it would change size."""
    step = 2 * stride
    if config.image_size % step:
        below = config.image_size // step * step
        sizes = " or ".join(str(size) for size in (below, below + step) if size)
        raise ConfigError(
            f"model.image_size is {config.image_size}: the deepest level of {config.backbone} is "
            f"{stride} times smaller and is halved once more; take a multiple of {step}, {sizes}"
        )


def build(config: ModelConfig, teacher: Teacher, *, seed: int, roi: Roi | None = None) -> MRKD:
    """A fresh student whose initial weights depend on config and seed alone."""
    with _DrawnFrom(torch.Generator().manual_seed(seeds.torch_seed(seed, "init"))):
        return MRKD(config, teacher, roi)


class _DrawnFrom(TorchFunctionMode):
    """Block whose initial weights are drawn from a generator of its own.

    torch's layers draw from the one generator of the process, in which other threads, whose
    categories are trained at the same time, would interfere.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        own = {"generator": self._generator} if func in _DRAWS else {}
        return func(*args, **{**(kwargs or {}), **own})
