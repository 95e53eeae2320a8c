"""Tables `[model]` and `[train]`: the network and its training, which make a model's version."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from mrkd.config.toml import Config, Range, UriOrName, check_range
from mrkd.errors import ConfigError

Backbone = Literal[
    "resnet18",
    "resnet50",
    "wide_resnet50_2",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16"]
ScoringPrecision = Literal["auto", "float32", "float16"]
Resize = Literal["stretch", "letterbox"]


@dataclass(frozen=True)
class ModelConfig(Config, table="model"):
    """The network, its maps and its image score (spec sections 1 to 7)."""

    preset: str = "default"
    """Preset whose values apply where the file sets none: default, quick, student, masked, semantic
    or paper."""
    backbone: Backbone = "efficientnet_lite0"
    """Network of the frozen teacher."""
    weights: UriOrName = "auto"
    """Weights of the teacher: `auto` (those known for the backbone), `random`, or a path or URL of
    a file."""
    weights_sha256: str = ""
    """SHA-256 digest that the file of a path or URL must have."""
    taps: tuple[int, ...] = ()
    """Two or three blocks whose outputs are the levels, rising (EfficientNet-Lite only); empty: the
    backbone's own."""
    image_size: Annotated[int, Range(32, 4096, "pixels")] = 256
    """Side of the square that an image is resized to, a multiple of 32."""
    resize: Resize = "stretch"
    """Whether a resized image is stretched to the square or padded to it."""
    tiles: Annotated[int, Range(0, 2**16, "original pixels")] = 0
    """Side of the squares that a large image is cut into, each of which the model sees by itself,
    at least 32; 0: the whole image at once."""
    overlap: Annotated[int, Range(0, 2**15, "original pixels")] = 64
    """Width that neighbouring tiles share, where their maps are blended; at most half a tile."""
    levels: tuple[int, ...] = ()
    """Levels used for loss and map, 1 the shallowest; empty: all levels (Table 7)."""
    scconv: bool = True
    """Whether the bottleneck has SCConv, as in the paper."""
    simam: bool = True
    """Whether the bottleneck has SimAM attention, as in the paper."""
    sru_gate: Literal["hard", "soft"] = "soft"
    """Gate of SCConv's spatial reconstruction."""
    sru_groups: Annotated[int, Range(1, 4096)] = 16
    """Groups of the group normalisation in SCConv's spatial reconstruction."""
    fmm: bool = True
    """Whether masked student features are generated anew (feature mask generation, section 3.7);
    off: the student's features as they are."""
    generation: Literal["replace", "residual"] = "replace"
    """Whether generated features replace those of the student, as in the paper, or are added to
    them."""
    distance: Literal["pixel", "flat"] = "pixel"
    """Whether the loss takes cosines pixel by pixel or of whole flattened levels."""
    combine: Literal["add", "multiply", "calibrated"] = "add"
    """How the maps of the levels are joined; `calibrated` standardises each and adds."""
    smooth: Annotated[float, Range(0, 64, "pixels")] = 4.0
    """Sigma of the Gaussian that smooths the map, for an image size of 256; it scales with
    `image_size`."""
    feature_norm: Literal["none", "standardise"] = "none"
    """Whether teacher features are standardised channel by channel."""
    anchor: Annotated[float, Range(0, 10)] = 0.0
    """Weight of the constant channel appended to both sides before the cosine."""
    image_score: Literal["max", "top_share_mean"] = "max"
    """Whether the map's maximum or the mean of its highest pixels is the image's score."""
    top_share: Annotated[float, Range(1e-6, 1)] = 0.01
    """Share of the map's pixels that `top_share_mean` averages."""
    mean_weight: Annotated[float, Range(0, 10)] = 0.0
    """Share of the map's mean that is subtracted from the image score."""
    student: bool = True
    """Whether an MRKD student is trained; without one `cells` alone decide."""
    cells: bool = False
    """Whether Gaussians of the teacher's features, one for each cell of a grid, decide beside the
    student."""
    precision: Literal["float32", "float16"] = "float32"
    """Number format of the student when images are scored. It belongs to the version: its
    thresholds are made in it, and every night scores in it. Teacher, map and score are always
    float32; float16 is for GPUs, and moves scores by less than 0.001 of their range."""
    gaussian: Annotated[float, Range(0, 100)] = 0.0
    """Weight, beside the map's score, of the distance of an image's mean deepest feature to those
    of good images under one Gaussian; it finds other kinds of objects rather than defects."""

    def _check(self) -> None:
        if self.tiles:
            # A side, not a number: tiles of a few pixels would be thousands of squares an image.
            check_range("model.tiles", self.tiles, 32, 2**16)
            check_range("model.overlap", self.overlap, 0, self.tiles // 2)
            if self.gaussian:
                raise ConfigError(
                    f"model.gaussian is {self.gaussian:g} and model.tiles {self.tiles}: the "
                    "Gaussian judges an image as a whole; set one of them to 0"
                )
        if not (self.student or self.cells):
            raise ConfigError("model.student and model.cells are both off: nothing would judge")
        if self.cells and self.gaussian:
            raise ConfigError(
                f"model.gaussian is {self.gaussian:g} and model.cells on: one Gaussian of the "
                "whole image works beside a student alone; set one of them off"
            )
        if self.image_size % 32:
            raise ConfigError(f"model.image_size is {self.image_size}: it must be a multiple of 32")
        if list(self.levels) != sorted(set(self.levels)) or any(n < 1 for n in self.levels):
            raise ConfigError(f"model.levels is {list(self.levels)}: name each level once, rising")
        if list(self.taps) != sorted(set(self.taps)) or len(self.taps) not in (0, 2, 3):
            raise ConfigError(f"model.taps is {list(self.taps)}: name two or three blocks, rising")


@dataclass(frozen=True)
class FitConfig(Config, table="train"):
    """The training of one category (spec sections 5 and 6)."""

    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    """Seed of all random numbers of the training."""
    mask_rate: Annotated[float, Range(0, 1)] = 0.4
    """Share of the student's pixels that training hides, less than 1; the paper gives no value."""
    mask_cell: Annotated[int, Range(1, 64, "pixels of the level")] = 1
    """Side of the square cells that are hidden as one."""
    mask_rescale: bool = False
    """Whether the pixels left are divided by their share, so that a pixel has the same sum in
    training as at test, where nothing is hidden."""
    mask_schedule: Literal["constant", "rise", "fall"] = "constant"
    """Course of the mask rate over the training: `rise` goes linearly from 0 to `mask_rate`, `fall`
    from `mask_rate` to 0."""
    hard_pixel_share: Annotated[float, Range(0, 1)] = 0.0
    """Share of each image's worst pixels whose mean is added to the loss; 0: none."""
    learning_rate: Annotated[float, Range(1e-8, 1)] = 1e-3
    """Learning rate of Adam at its highest."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Course of the learning rate after the warm-up."""
    warmup_steps: Annotated[int, Range(0, 10**6, "steps")] = 0
    """Steps over which the learning rate rises from 0."""
    weight_decay: Annotated[float, Range(0, 1)] = 1e-5
    """Adam's coupled weight decay, twice the paper's lambda of 5e-6."""
    batch_size: Annotated[int, Range(2, 4096, "images")] = 16
    """Images of one optimiser step, however many workers share it."""
    micro_batch_size: Annotated[int, Range(0, 4096, "images")] = 0
    """Images of one forward pass, which batch norm sees; smaller ones take less memory, and their
    gradients are accumulated. At most `batch_size`; 0: the whole batch, or each worker's share."""
    max_epochs: Annotated[int, Range(1, 10**5, "epochs")] = 200
    """Epochs after which training ends."""
    max_steps: Annotated[int, Range(0, 10**7, "steps")] = 0
    """Optimiser steps after which training ends; 0: `max_epochs` alone decides."""
    patience: Annotated[int, Range(1, 10**5, "epochs")] = 20
    """Epochs without a better loss on held-out good images after which training ends."""
    augment: Literal["none", "flips"] = "none"
    """Random changes of the training images."""
    min_images_for_student: Annotated[int, Range(4, 10**9, "images")] = 100
    """Good images from which on a student is trained beside cells (`model.cells`): with fewer it
    adds little, and its thresholds hold less."""
    validation_share: Annotated[float, Range(0.01, 0.5)] = 0.1
    """Share of the good images, in whole groups, that decides when a student's training ends."""
    calibration_share: Annotated[float, Range(0.01, 0.5)] = 0.1
    """Further share of the good images, kept out of training, that sets the threshold."""
    false_call_rate: Annotated[float, Range(1e-6, 0.5)] = 0.01
    """Share of good parts that the threshold may call defective."""
    cache_bytes: Annotated[int, Range(0, 2**50, "bytes")] = 4 * 2**30
    """Memory for teacher features; larger ones go to disk."""
    device: Device = "auto"
    """Device to train on; `auto`: a GPU if there is one."""
    precision: Precision = "auto"
    """Number format of training; `auto`: by the device."""

    def _check(self) -> None:
        if self.mask_rate == 1:
            raise ConfigError(f"train.mask_rate is {self.mask_rate}: it must lie in [0, 1)")
        check_range("train.micro_batch_size", self.micro_batch_size, 0, self.batch_size)
        if self.micro_batch_size == 1:
            raise ConfigError("train.micro_batch_size is 1: batch norm needs at least 2 images")


def config_digest(
    model: ModelConfig, train: FitConfig, kind: str = "mrkd", category: str = "{}"
) -> str:
    """Digest of a fitted thing's settings without their seed: 12 hex digits.

    Args:
        model: the network.
        train: its training.
        kind: the thing that is fitted, such as `mrkd`.
        category: the settings of single categories, as JSON.
    """
    parts = (kind, model.digest(), replace(train, seed=0).digest(), category)
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]
