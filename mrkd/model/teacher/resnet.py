"""ResNets under the parameter names of torchvision's checkpoints."""

from __future__ import annotations

from typing import Self, cast

from torch import Tensor, nn
from torch.nn import functional

from mrkd.errors import ConfigError
from mrkd.model.teacher.interface import Backbone


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; `width` is there for the signature alone."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _downsample(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, h, w]` to `[B, planes, h / stride, w / stride]`."""
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return functional.relu(y + self.downsample(x), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 (which holds the stride, as in torchvision) and 1x1 convolution."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, width: int) -> None:
        super().__init__()
        inner, outputs = planes * width // 64, planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _downsample(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, h, w]` to `[B, 4 * planes, h / stride, w / stride]`."""
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = functional.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return functional.relu(y + self.downsample(x), inplace=True)


class ResNet(Backbone):
    """ResNet for ImageNet; the levels are the outputs of layer1, layer2 and layer3.

    Args:
        taps: empty: a ResNet's levels are fixed.
        block: `BasicBlock` or `Bottleneck`.
        depths: blocks of each of the four layers.
        width: channels of a bottleneck's 3x3 convolution per 64 planes.

    Raises:
        ConfigError: there are `taps`.
    """

    def __init__(
        self,
        taps: tuple[int, ...],
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        width: int = 64,
    ) -> None:
        super().__init__()
        if taps:
            raise ConfigError(
                f"model.taps is {list(taps)}, but a ResNet's levels are its first three layers: "
                "leave taps out"
            )
        self.taps, self.last_tap = (), None
        self.channels = tuple(planes * block.expansion for planes in (64, 128, 256))
        self.strides = (4, 8, 16)
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)

        def layer(inputs: int, planes: int, stride: int, depth: int) -> nn.Sequential:
            first = block(inputs, planes, stride, width)
            rest = [block(planes * block.expansion, planes, 1, width) for _ in range(depth - 1)]
            return nn.Sequential(first, *rest)

        self.layer1 = layer(64, 64, 1, depths[0])
        self.layer2 = layer(self.channels[0], 128, 2, depths[1])
        self.layer3 = layer(self.channels[1], 256, 2, depths[2])
        self.layer4 = layer(self.channels[2], 512, 2, depths[3])
        self.fc = nn.Linear(512 * block.expansion, 1000)

    def levels(self, images: Tensor) -> list[Tensor]:
        """Outputs of layer1, layer2 and layer3, see `Backbone.levels`."""
        x = functional.relu(self.bn1(self.conv1(images)), inplace=True)
        x1 = self.layer1(functional.max_pool2d(x, 3, 2, 1))
        x2 = self.layer2(x1)
        return [x1, x2, self.layer3(x2)]

    def forward(self, images: Tensor) -> Tensor:
        """ImageNet logits `[B, 1000]`."""
        x = self.layer4(self.levels(images)[-1])
        return cast(Tensor, self.fc(x.mean((2, 3))))

    def drop_head(self) -> Self:
        """This network without layer4 and classifier."""
        del self.layer4, self.fc
        return self


def _downsample(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))
