"""BACKBONES: the networks that a teacher can be, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mrkd.data.images import Normalisation
from mrkd.errors import ConfigError
from mrkd.model.teacher.efficientnet_lite import EfficientNetLite
from mrkd.model.teacher.interface import Backbone
from mrkd.model.teacher.resnet import BasicBlock, Bottleneck, ResNet


@dataclass(frozen=True)
class Spec:
    """A row of `BACKBONES`.

    Args:
        build: taps (empty: the default) -> network with its classifier head.
        normalisation: normalisation of the images that the network was trained on.
        signed: the levels are linear outputs and may be negative.
    """

    build: Callable[[tuple[int, ...]], Backbone]
    normalisation: Normalisation
    signed: bool


_imagenet = partial(
    Spec,
    normalisation=Normalisation(
        mean=(0.485 * 255, 0.456 * 255, 0.406 * 255), std=(0.229 * 255, 0.224 * 255, 0.225 * 255)
    ),
    signed=False,
)
_lite = partial(Spec, normalisation=Normalisation(mean=(127.0,) * 3, std=(128.0,) * 3), signed=True)

BACKBONES: dict[str, Spec] = {
    "resnet18": _imagenet(partial(ResNet, block=BasicBlock, depths=(2, 2, 2, 2))),
    "resnet50": _imagenet(partial(ResNet, block=Bottleneck, depths=(3, 4, 6, 3))),
    "wide_resnet50_2": _imagenet(partial(ResNet, block=Bottleneck, depths=(3, 4, 6, 3), width=128)),
    "efficientnet_lite0": _lite(partial(EfficientNetLite, width=1.0, depth=1.0)),
    "efficientnet_lite1": _lite(partial(EfficientNetLite, width=1.0, depth=1.1)),
    "efficientnet_lite2": _lite(partial(EfficientNetLite, width=1.1, depth=1.2)),
}


def build(backbone: str, taps: tuple[int, ...] = ()) -> Backbone:
    """The network with its classifier head and fresh weights; empty `taps`: the backbone's own.

    Raises:
        ConfigError: an unknown backbone, or taps that it does not have.
    """
    if backbone not in BACKBONES:
        raise ConfigError(f"model.backbone is {backbone!r}, known: {', '.join(BACKBONES)}")
    return BACKBONES[backbone].build(taps)
