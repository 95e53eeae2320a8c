"""The trained parts: bottleneck (fusion, SCConv, SimAM, one-class embedding), student, masks.

Shape letters: B batch, C channels, h w a level's size. "Paper" is the one that `mrkd/README.md`
names; a table there lists every point in which we read it differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_bn_relu(c_in: int, c_out: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU; "same" padding."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    )


class MultiScaleFusion(nn.Module):
    """All levels brought to the deepest level's size and fused: MSFF.

    Each halving is one stride-2 3x3 convolution; a level's channels become the next level's on the
    way and the deepest one's at the last step.

    Args:
        channels: C_l of every level, shallow to deep.
        strides: input pixels per feature pixel of every level.

    Source: paper section 3.3. Differs: convolution, norm, ReLU in that order everywhere.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        deepest = strides[-1]
        at_stride = dict(zip(strides, channels, strict=True))
        self.downs = nn.ModuleList()
        total = 0
        for c, stride in zip(channels, strides, strict=True):
            steps = []
            while stride < deepest:
                stride *= 2
                out = channels[-1] if stride == deepest else at_stride.get(stride, c)
                steps.append(conv_bn_relu(c, out, 3, stride=2))
                c = out
            self.downs.append(nn.Sequential(*steps))
            total += c
        self.fuse = conv_bn_relu(total, channels[-1], 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """`[B, C_l, h_l, w_l]` per level to `[B, C_L, h_L, w_L]`."""
        fused = [down(t) for down, t in zip(self.downs, levels, strict=True)]
        out: Tensor = self.fuse(torch.cat(fused, 1))
        return out


class SpatialReconstruction(nn.Module):
    """SRU: parts the channels' informative pixels from the others and crosses the two.

    Args:
        channels: even, divisible by `groups`.
        gate: `hard` cuts at 0.5, the paper's text, which leaves the norm's scale and shift without
            a gradient, so they are frozen; `soft` lets the value itself through below it.
        groups: number of groups of the group norm.

    Source: paper section 3.5; SCConv (Li et al., CVPR 2023), section 3.1.
    """

    def __init__(self, channels: int, *, gate: Literal["hard", "soft"], groups: int = 16) -> None:
        super().__init__()
        self.gate = gate
        self.norm = nn.GroupNorm(groups, channels)
        if gate == "hard":
            self.norm.requires_grad_(False)

    def weights(self, x_BChw: Tensor) -> Tensor:
        """The sigmoid of the weighted norm, before the gate: `[B, C, h, w]` in (0, 1)."""
        gamma = self.norm.weight / self.norm.weight.sum()
        return torch.sigmoid(gamma.view(1, -1, 1, 1) * self.norm(x_BChw))

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Same shape out as in."""
        weights = self.weights(x_BChw)
        if self.gate == "hard":
            informative = (weights >= 0.5).to(x_BChw.dtype)
            rest = 1 - informative
        else:
            above = weights > 0.5
            informative = torch.where(above, 1.0, weights)
            rest = torch.where(above, 0.0, weights)
        first_a, first_b = (informative * x_BChw).chunk(2, 1)
        second_a, second_b = (rest * x_BChw).chunk(2, 1)
        return torch.cat([first_a + second_b, first_b + second_a], 1)


class ChannelReconstruction(nn.Module):
    """CRU: a rich and a cheap transform of half the channels each, fused by channel attention.

    Args:
        channels: divisible by 8 (half, squeezed by two, in two groups).

    Source: paper section 3.5; SCConv section 3.2 (alpha 1/2, squeeze 2, 2 groups, kernel 3).
        Differs from SCConv's code: the softmax is over the two branches of a channel, as its
        equations say, and not over all 2C values, which would shrink the output by 2C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half, squeezed = channels // 2, channels // 4
        self.squeeze_upper = nn.Conv2d(half, squeezed, 1, bias=False)
        self.squeeze_lower = nn.Conv2d(half, squeezed, 1, bias=False)
        self.group_wise = nn.Conv2d(squeezed, channels, 3, padding=1, groups=2)
        self.point_wise_upper = nn.Conv2d(squeezed, channels, 1, bias=False)
        self.point_wise_lower = nn.Conv2d(squeezed, channels - squeezed, 1, bias=False)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Same shape out as in."""
        upper, lower = x_BChw.chunk(2, 1)
        upper, lower = self.squeeze_upper(upper), self.squeeze_lower(lower)
        rich = self.group_wise(upper) + self.point_wise_upper(upper)
        cheap = torch.cat([self.point_wise_lower(lower), lower], 1)
        pooled = torch.stack([rich.mean((2, 3)), cheap.mean((2, 3))])
        beta = pooled.softmax(0)[..., None, None]
        fused: Tensor = beta[0] * rich + beta[1] * cheap
        return fused


class SimAM(nn.Module):
    """Attention without parameters: weighs each pixel by its distance from its channel's mean.

    Source: paper section 3.6; SimAM (Yang et al., ICML 2021), equation 5.
    """

    def __init__(self, regularisation: float = 1e-4) -> None:
        super().__init__()
        self.regularisation = regularisation

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Same shape out as in; a 1x1 map has no spread and is weighted by sigmoid(0.5)."""
        n = x_BChw.shape[-2] * x_BChw.shape[-1] - 1
        square = (x_BChw - x_BChw.mean((2, 3), keepdim=True)).square()
        variance = square.sum((2, 3), keepdim=True) / max(n, 1)
        inverse_energy = square / (4 * (variance + self.regularisation)) + 0.5
        return x_BChw * torch.sigmoid(inverse_energy)


class DecoderBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; `resample` halves, doubles or keeps the size."""

    expansion = 1

    def __init__(
        self, c_in: int, planes: int, *, resample: Literal["down", "up", "keep"], base_width: int
    ) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _resampling(c_in, planes, resample),
            nn.BatchNorm2d(planes),
            nn.ReLU(inplace=True),
            nn.Conv2d(planes, planes, 3, padding=1, bias=False),
            nn.BatchNorm2d(planes),
        )
        self.shortcut = _shortcut(c_in, planes, resample)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """`[B, c_in, h, w]` to `[B, planes, h', w']`."""
        return F.relu(self.residual(x_BChw) + self.shortcut(x_BChw))


class BottleneckBlock(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; the middle one resamples.

    Args:
        base_width: 64, or 128 for the wide networks.
    """

    expansion = 4

    def __init__(
        self, c_in: int, planes: int, *, resample: Literal["down", "up", "keep"], base_width: int
    ) -> None:
        super().__init__()
        width, out = planes * base_width // 64, planes * self.expansion
        self.residual = nn.Sequential(
            nn.Conv2d(c_in, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            _resampling(width, width, resample),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.shortcut = _shortcut(c_in, out, resample)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """`[B, c_in, h, w]` to `[B, 4 * planes, h', w']`."""
        return F.relu(self.residual(x_BChw) + self.shortcut(x_BChw))


Block = type[DecoderBlock] | type[BottleneckBlock]


def stage(
    block: Block,
    c_in: int,
    planes: int,
    num_blocks: int,
    *,
    resample: Literal["down", "up", "keep"],
    base_width: int = 64,
) -> nn.Sequential:
    """`num_blocks` blocks, the first of which resamples: one stage of a residual network.

    With `down` it is the one-class embedding (RD4AD, section 3.3), with `up` a decoder stage.
    """
    blocks = [block(c_in, planes, resample=resample, base_width=base_width)]
    for _ in range(1, num_blocks):
        c = planes * block.expansion
        blocks.append(block(c, planes, resample="keep", base_width=base_width))
    return nn.Sequential(*blocks)


class Decoder(nn.Module):
    """The student: rebuilds the levels from the code alone, deep to shallow.

    Args:
        block: the teacher's kind of block.
        code_channels: channels of phi.
        channels: C_l of every level, shallow to deep.
        strides: input pixels per feature pixel of every level; phi has twice the deepest stride.
        num_blocks: blocks of each level's stage, shallow to deep.
        levels: indices of the levels in use; stages shallower than the first are not built.
        base_width: width of a `BottleneckBlock`'s 3x3 convolution per 64 planes.

    Source: paper section 3.2, RD4AD section 3.2 and its `de_` networks.
    """

    def __init__(
        self,
        block: Block,
        code_channels: int,
        channels: Sequence[int],
        strides: Sequence[int],
        num_blocks: Sequence[int],
        *,
        levels: Sequence[int],
        base_width: int = 64,
    ) -> None:
        super().__init__()
        self.levels = tuple(levels)
        stages: list[nn.Module] = []
        c_in = code_channels
        scales = [*strides, 2 * strides[-1]]
        for n in range(len(channels) - 1, self.levels[0] - 1, -1):
            planes = channels[n] // block.expansion
            resample: Literal["up", "keep"] = "up" if scales[n + 1] > scales[n] else "keep"
            stages.append(
                stage(block, c_in, planes, num_blocks[n], resample=resample, base_width=base_width)
            )
            c_in = channels[n]
        self.stages = nn.ModuleList(stages)

    def forward(self, code: Tensor) -> tuple[Tensor, ...]:
        """Phi to `[B, C_l, h_l, w_l]` for each level in use, shallow to deep."""
        outputs: list[Tensor] = []
        for decode in self.stages:
            code = decode(code)
            outputs.insert(0, code)
        first = self.levels[0]
        return tuple(outputs[n - first] for n in self.levels)


class FeatureMaskGeneration(nn.Module):
    """FMM of one level: align, hide pixels, generate them from the pixels left around them.

    Args:
        channels: C_l.
        residual: whether the generated features are added to the aligned ones or replace them.

    Source: paper section 3.7; MGD (Yang et al., ECCV 2022), equation 2. At test nothing is hidden
        and the generation stays. Differs: the residual form is ours.
    """

    def __init__(self, channels: int, *, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.align = nn.Conv2d(channels, channels, 1)
        self.generate = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x_BChw: Tensor, feature_mask: Tensor | None = None) -> Tensor:
        """Same shape out as in; `feature_mask` is `[B, 1, h, w]`, 0 where a pixel is hidden."""
        aligned = self.align(x_BChw)
        seen = aligned if feature_mask is None else aligned * feature_mask
        generated: Tensor = self.generate(seen)
        return aligned + generated if self.residual else generated


def _resampling(c_in: int, c_out: int, resample: Literal["down", "up", "keep"]) -> nn.Module:
    if resample == "up":
        return nn.ConvTranspose2d(c_in, c_out, 2, 2, bias=False)
    return nn.Conv2d(c_in, c_out, 3, 2 if resample == "down" else 1, 1, bias=False)


def _shortcut(c_in: int, c_out: int, resample: Literal["down", "up", "keep"]) -> nn.Module:
    if resample == "keep" and c_in == c_out:
        return nn.Identity()
    if resample == "up":
        return nn.Sequential(
            nn.ConvTranspose2d(c_in, c_out, 2, 2, bias=False), nn.BatchNorm2d(c_out)
        )
    stride = 2 if resample == "down" else 1
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))
