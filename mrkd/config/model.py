"""The network and its training: what makes a model, and so its version."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

from mrkd.config.toml import Config, check_range
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
class ModelConfig(Config):
    """The network, its maps and its image score (spec sections 1 to 7)."""

    preset: str = "default"
    """A file of `mrkd/config/presets`: default, quick, student, masked, semantic, paper."""
    backbone: Backbone = "efficientnet_lite0"
    weights: str = "auto"
    """Where the teacher's weights come from: `auto` (the backbone's row in the table), a path or
    URL, or `random`."""
    weights_sha256: str = ""
    """Digest that a path or URL must have."""
    taps: tuple[int, ...] = ()
    """Blocks whose outputs are the levels (EfficientNet-Lite only); empty: the backbone's own."""
    image_size: int = 256
    resize: Resize = "stretch"
    tiles: int = 0
    """Side, in original pixels, of the squares that a large image is cut into, each of which the
    model sees by itself; 0: the whole image at once."""
    overlap: int = 64
    """Original pixels that neighbouring tiles share, where their maps are blended."""
    levels: tuple[int, ...] = ()
    """Levels used for loss and map, 1 the shallowest; empty: all (Table 7)."""
    scconv: bool = True
    simam: bool = True
    sru_gate: Literal["hard", "soft"] = "soft"
    sru_groups: int = 16
    fmm: bool = True
    """Feature mask generation (section 3.7); off: the student's features as they are."""
    generation: Literal["replace", "residual"] = "replace"
    """What FMM makes replaces the student's features, as in the paper, or is added to them."""
    distance: Literal["pixel", "flat"] = "pixel"
    combine: Literal["add", "multiply", "calibrated"] = "add"
    smooth: float = 4.0
    """Gaussian sigma of the map, in pixels at 256; scales with `image_size`."""
    feature_norm: Literal["none", "standardise"] = "none"
    anchor: float = 0.0
    """Weight of the constant channel appended to both sides before the cosine."""
    image_score: Literal["max", "top_share_mean"] = "max"
    top_share: float = 0.01
    mean_weight: float = 0.0
    """Share of the map's mean that is taken off the image score."""
    student: bool = True
    """Whether an MRKD student is trained; without one, `cells` alone judge."""
    cells: bool = False
    """Whether Gaussians of the teacher's features, one for each cell of a grid, judge beside the
    student."""
    gaussian: float = 0.0
    """Weight, beside the map's score, of how far a picture's mean deepest feature lies from those
    of good ones, under one Gaussian; for kinds of things more than for defects in them."""

    def __post_init__(self) -> None:
        check_range("model.image_size", self.image_size, 32, 4096)
        if self.tiles:
            # A side, not a number: tiles of a few pixels would be thousands of squares an image.
            check_range("model.tiles", self.tiles, 32, 2**16)
            check_range("model.overlap", self.overlap, 0, self.tiles // 2)
            if self.gaussian:
                raise ConfigError(
                    f"model.gaussian is {self.gaussian:g} and model.tiles {self.tiles}: the "
                    "Gaussian judges a picture as a whole; set one of them to 0"
                )
        check_range("model.sru_groups", self.sru_groups, 1, 4096)
        check_range("model.smooth", self.smooth, 0, 64)
        check_range("model.anchor", self.anchor, 0, 10)
        check_range("model.top_share", self.top_share, 1e-6, 1)
        check_range("model.mean_weight", self.mean_weight, 0, 10)
        check_range("model.gaussian", self.gaussian, 0, 100)
        if not (self.student or self.cells):
            raise ConfigError("model.student and model.cells are both off: nothing would judge")
        if self.cells and self.gaussian:
            raise ConfigError(
                f"model.gaussian is {self.gaussian:g} and model.cells on: one Gaussian of the "
                "whole picture stands beside a student alone; set one of them off"
            )
        if self.image_size % 32:
            raise ConfigError(f"model.image_size is {self.image_size}: it must be a multiple of 32")
        if list(self.levels) != sorted(set(self.levels)) or any(n < 1 for n in self.levels):
            raise ConfigError(f"model.levels is {list(self.levels)}: name each level once, rising")
        if list(self.taps) != sorted(set(self.taps)) or len(self.taps) not in (0, 2, 3):
            raise ConfigError(f"model.taps is {list(self.taps)}: name two or three blocks, rising")


@dataclass(frozen=True)
class FitConfig(Config):
    """How one category is trained (spec sections 5 and 6)."""

    seed: int = 0
    mask_rate: float = 0.4
    """Share of the student's pixels hidden in training, in [0, 1); the paper gives no value."""
    mask_cell: int = 1
    """Side of the square cells that are hidden as one, in pixels of the level."""
    mask_rescale: bool = False
    """Divides what is left by the share that is left, so that a pixel sees the same sum at test,
    where nothing is hidden, as in training."""
    mask_schedule: Literal["constant", "rise", "fall"] = "constant"
    """`rise`: from 0 to `mask_rate` over the training, linearly; `fall`: the other way round."""
    hard_pixel_share: float = 0.0
    """Adds the mean over that share of each image's worst pixels to the loss."""
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 0
    weight_decay: float = 1e-5
    """Adam's coupled one, twice the paper's lambda of 5e-6."""
    batch_size: int = 16
    """Images of one optimiser step, however many workers share it."""
    micro_batch_size: int = 0
    """Images of one forward pass, which is what batch norm sees; 0: the batch, or each worker's
    share of it. Smaller ones take less memory, and their gradients are accumulated."""
    max_epochs: int = 200
    max_steps: int = 0
    """Ends training after that many steps; 0: `max_epochs` alone decides."""
    patience: int = 20
    """Epochs without a better loss on held-out good images before training stops."""
    augment: Literal["none", "flips"] = "none"
    min_images_for_student: int = 100
    """Good images from which on a student is trained beside cells (`model.cells`): with fewer it
    adds little, and its thresholds hold less."""
    validation_share: float = 0.1
    """Share of the good images, in whole groups, that ends a student's training."""
    calibration_share: float = 0.1
    """Share that a student is not trained on besides."""
    false_call_rate: float = 0.01
    """Share of good parts that the threshold may call defective."""
    cache_bytes: int = 4 * 2**30
    """Teacher features held in memory; past it they go to disk."""
    device: Device = "auto"
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.mask_rate < 1:
            raise ConfigError(f"train.mask_rate is {self.mask_rate}: it must lie in [0, 1)")
        check_range("train.seed", self.seed, 0, 2**63 - 1)
        check_range("train.mask_cell", self.mask_cell, 1, 64)
        check_range("train.hard_pixel_share", self.hard_pixel_share, 0, 1)
        check_range("train.learning_rate", self.learning_rate, 1e-8, 1)
        check_range("train.weight_decay", self.weight_decay, 0, 1)
        check_range("train.warmup_steps", self.warmup_steps, 0, 10**6)
        check_range("train.batch_size", self.batch_size, 2, 4096)
        check_range("train.micro_batch_size", self.micro_batch_size, 0, self.batch_size)
        if self.micro_batch_size == 1:
            raise ConfigError("train.micro_batch_size is 1: batch norm needs at least 2 images")
        check_range("train.max_epochs", self.max_epochs, 1, 10**5)
        check_range("train.max_steps", self.max_steps, 0, 10**7)
        check_range("train.patience", self.patience, 1, 10**5)
        check_range("train.min_images_for_student", self.min_images_for_student, 4, 10**9)
        check_range("train.validation_share", self.validation_share, 0.01, 0.5)
        check_range("train.calibration_share", self.calibration_share, 0.01, 0.5)
        check_range("train.false_call_rate", self.false_call_rate, 1e-6, 0.5)
        check_range("train.cache_bytes", self.cache_bytes, 0, 2**50)


def config_digest(
    model: ModelConfig, train: FitConfig, kind: str = "mrkd", category: str = "{}"
) -> str:
    """Names what is fitted, whatever the seed: 12 hex digits.

    Args:
        model: the network.
        train: its training.
        kind: of what is fitted.
        category: what differs for some categories.
    """
    parts = (kind, model.digest(), replace(train, seed=0).digest(), category)
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]
