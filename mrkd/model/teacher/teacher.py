"""The frozen network whose features the student learns to repeat."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Self

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mrkd.config import ModelConfig
from mrkd.errors import ConfigError, TeacherError
from mrkd.model.teacher.architectures import BACKBONES, build
from mrkd.model.teacher.interface import Backbone
from mrkd.model.teacher.weights import read_state

# Images of one pass on a CPU, in pixels. EfficientNet-Lite0 at 256 px on one core of an AMD EPYC:
# 19.5 ms an image by fours, 23.6 by eights, 29.5 by sixteens, whose activations are paged in anew.
_CPU_PIXELS = 4 * 256 * 256


class Teacher(nn.Module):
    """A backbone up to its deepest level: no gradient, always in eval mode, batch norms folded.

    Made by `load_teacher` or `teacher_from_safetensors`.

    Attributes:
        name: name of the backbone.
        digest: sha256 of `to_safetensors()`; equal digests give equal features.
        random: the weights are drawn, not learnt.
        taps: blocks whose outputs are the levels; empty where the backbone has only one choice.
        channels: C_l of each level, shallow to deep.
        strides: input pixels per level pixel.
        normalisation: normalisation of the input.
        signed: the levels are linear outputs and may be negative.
    """

    def __init__(self, name: str, network: Backbone, data: bytes, *, random: bool) -> None:
        super().__init__()
        spec = BACKBONES[name]
        self.name, self.random = name, random
        self.taps, self.channels, self.strides = network.taps, network.channels, network.strides
        self.normalisation, self.signed = spec.normalisation, spec.signed
        self.digest = hashlib.sha256(data).hexdigest()
        self._data = data
        self.network = _fold(network.eval()).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Does nothing: a teacher stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Features, float32 `[B, C_l, h_l, w_l]`, shallow to deep, under any autocast.

        All else is compared with them: in bfloat16 the teacher alone moved scores by 0.05 of their
        range, in float16 and TF32 by 0.004 (512 magnetic tiles, tests/bench/LOG.md).

        Args:
            images: float32 `[B, 3, H, W]`, made by `images.to_tensor` with `normalisation`.
        """
        with torch.autocast(images.device.type, enabled=False):
            if images.device.type != "cpu":
                return self.network.levels(images)
            step = max(1, _CPU_PIXELS // (images.shape[2] * images.shape[3]))
            parts = [self.network.levels(part) for part in torch.split(images, step)]
            return [torch.cat(level) for level in zip(*parts, strict=True)]

    def to_safetensors(self) -> bytes:
        """The weights as they were loaded, before folding, up to the deepest level."""
        return self._data


def load_teacher(
    backbone: str,
    *,
    taps: tuple[int, ...] = (),
    weights: str = "auto",
    sha256: str = "",
    seed: int = 0,
) -> Teacher:
    """The teacher of a config.

    Args:
        backbone: a name of `BACKBONES`.
        taps: blocks whose outputs are the levels; empty: the backbone's own.
        weights: `auto`, a name of `WEIGHTS`, a path, a URL, or `random`.
        sha256: digest that a path or URL must have.
        seed: seed of `random` weights.

    Raises:
        ConfigError: the backbone is unknown or has no such taps.
        TeacherError: the weights are missing, altered or of another network.
    """
    with torch.device("meta"):
        network = build(backbone, taps)
    if weights == "random":
        state = _random_state(network, seed)
    else:
        source, state = read_state(backbone, weights, sha256)
        state = _checked(network, state, f"{source} as {backbone}")
    kept = {
        key: state[key].clone(memory_format=torch.contiguous_format)
        for key in _state_names(network.drop_head())
    }
    # One key: several would be written in any order, and change the file's digest.
    about = {"backbone": backbone, "taps": network.taps, "random": weights == "random"}
    data = safetensors.torch.save(kept, {"teacher": json.dumps(about)})
    return teacher_from_safetensors(data)


def teacher_of(config: ModelConfig, *, seed: int) -> Teacher:
    """The teacher that a model's config names; `seed` and errors as `load_teacher`.

    Cell Gaussians take the last block's level besides, where the backbone has a choice of levels.
    """
    taps = config.taps
    if config.cells:
        with torch.device("meta"):
            network = build(config.backbone, taps)
        if network.last_tap is not None:
            taps = tuple(sorted({*network.taps, network.last_tap}))
    return load_teacher(
        config.backbone,
        taps=taps,
        weights=config.weights,
        sha256=config.weights_sha256,
        seed=seed,
    )


def teacher_from_safetensors(data: bytes, *, where: str = "teacher weights") -> Teacher:
    """The teacher whose `to_safetensors()` is `data`; errors name `where` as its source.

    Raises:
        TeacherError: they are not a teacher's, or do not fit the backbone that they name.
    """
    try:
        state = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = json.loads(header["__metadata__"]["teacher"])
        name, taps, random = about["backbone"], tuple(about["taps"]), bool(about["random"])
        with torch.device("meta"):
            network = build(name, taps).drop_head()
    except (safetensors.SafetensorError, ConfigError, LookupError, TypeError, ValueError) as error:
        raise TeacherError(f"{where} is not a teacher that mrkd stored: {error}") from error
    network.load_state_dict(_checked(network, state, f"{where} as {name}"), assign=True)
    return Teacher(name, network, data, random=random)


def _state_names(network: Backbone) -> list[str]:
    # The counters of batches seen have no effect in eval mode, and older files lack them.
    return [key for key in network.state_dict() if not key.endswith("num_batches_tracked")]


def _checked(network: Backbone, state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The float32 state, once its names and shapes are exactly the network's."""
    expected = network.state_dict()
    found = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    wrong = [f"{key} is missing" for key in _state_names(network) if key not in found]
    wrong += [f"{key} is unexpected" for key in found if key not in expected]
    wrong += [
        f"{key} has shape {list(value.shape)}, expected {list(expected[key].shape)}"
        for key, value in found.items()
        if key in expected and value.shape != expected[key].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise TeacherError(f"{where} does not fit: {'; '.join(wrong[:3])}{more}")
    return {key: value.float() for key, value in found.items()}


def _random_state(network: Backbone, seed: int) -> dict[str, Tensor]:
    """He's normal weights in every convolution and layer, batch norms that change nothing."""
    generator = torch.Generator().manual_seed(seed)
    shapes, state = network.state_dict(), {}
    for key in _state_names(network):
        shape = shapes[key].shape
        if len(shape) > 1:
            weight = torch.empty(shape)
            state[key] = nn.init.kaiming_normal_(weight, generator=generator)
        else:
            ones = key.endswith(("weight", "running_var"))
            state[key] = torch.ones(shape) if ones else torch.zeros(shape)
    return state


def _fold(network: Backbone) -> Backbone:
    """The network with each batch norm's scale and shift moved into the convolution before it.

    Weights become channels-last, and with them the features. Both together cost less per image
    than the plain network, on one core of an AMD EPYC at 256 px: EfficientNet-Lite0 20 ms for 39,
    resnet18 41 ms for 56.
    """
    layers = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d)
    ]
    # In all these networks a batch norm is registered right after the convolution it follows.
    for (_, conv), (name, norm) in zip(layers[::2], layers[1::2], strict=True):
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        folded = fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = folded.weight, folded.bias
        conv.weight.data = conv.weight.contiguous(memory_format=torch.channels_last)
        network.set_submodule(name, nn.Identity())
    return network
