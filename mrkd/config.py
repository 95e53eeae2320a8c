"""Configs: frozen dataclasses, opened from TOML at the door and never changed after.

A config file holds only what differs from the defaults below. `model.preset` names a file of
`mrkd/presets`, whose `[model]` and `[train]` tables come before the user's own keys.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib import resources
from typing import Any, Literal, Self

from mrkd.errors import ConfigError
from mrkd.tables import Config, check_range, flattened, merged, nearest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Layout = Literal["mvtec", "folder", "elpv", "cifar10"]
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
Resize = Literal["stretch", "letterbox"]


def check_name(kind: str, name: str) -> str:
    """The name itself, if it may stand in a path.

    Raises:
        ConfigError: it does not match `[A-Za-z0-9][A-Za-z0-9._-]{0,99}`.
    """
    if NAME.fullmatch(name):
        return name
    raise ConfigError(
        f"{kind} {name!r} is not a name: use letters, digits, '.', '_' and '-', at most 100, "
        "the first a letter or digit"
    )


@dataclass(frozen=True)
class DataConfig(Config):
    """Labelled or good images to train on or to evaluate with."""

    root: str
    """URI of the data set's folder."""
    layout: Layout = "mvtec"
    categories: tuple[str, ...] = ("*",)
    """Shell patterns of the categories to use."""
    split_csv: str = ""
    """URI of a `path,group,part` file; empty: `split.csv` in or beside the category, if there."""
    exclude: tuple[str, ...] = ()
    """Image URIs, or their ends, to leave out of training."""


@dataclass(frozen=True)
class ModelConfig(Config):
    """The network, its maps and its image score (spec sections 1 to 7)."""

    preset: str = "default"
    """A file of `mrkd/presets`: paper, default, surface, object."""
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

    def __post_init__(self) -> None:
        check_range("model.image_size", self.image_size, 32, 4096)
        check_range("model.sru_groups", self.sru_groups, 1, 4096)
        check_range("model.smooth", self.smooth, 0, 64)
        check_range("model.anchor", self.anchor, 0, 10)
        check_range("model.top_share", self.top_share, 1e-6, 1)
        check_range("model.mean_weight", self.mean_weight, 0, 10)
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
    validation_share: float = 0.1
    calibration_share: float = 0.1
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
        check_range("train.validation_share", self.validation_share, 0.01, 0.5)
        check_range("train.calibration_share", self.calibration_share, 0.01, 0.5)
        check_range("train.false_call_rate", self.false_call_rate, 1e-6, 0.5)
        check_range("train.cache_bytes", self.cache_bytes, 0, 2**50)


@dataclass(frozen=True)
class RoiConfig(Config):
    """Where a part is inspected; what lies outside is neither learnt nor scored."""

    mask: str = ""
    """URI of an image of the originals' size, brighter than half where the part is inspected."""
    polygons: tuple[tuple[tuple[float, ...], ...], ...] = ()
    """Or outlines, each a list of `[x, y]` in original pixels; what lies in one is inspected."""

    def __post_init__(self) -> None:
        if self.mask and self.polygons:
            raise ConfigError("roi.mask and roi.polygons exclude each other: keep one")
        for number, polygon in enumerate(self.polygons):
            if len(polygon) < 3 or any(len(point) != 2 for point in polygon):
                raise ConfigError(
                    f"roi.polygons[{number}] is {[list(point) for point in polygon]}: it must be "
                    "three or more points, each [x, y]"
                )


@dataclass(frozen=True)
class FleetConfig(Config):
    """How a fleet of categories shares the cluster (system section 6)."""

    workers_per_category: int = 1
    """Workers that share each batch of one training (data parallel)."""
    cpus_per_worker: float = 0.0
    """0: all of a node's, shared by the workers that run at once on it."""
    gpus_per_worker: float = 0.0
    """A fraction shares a GPU between categories; 0: one, where the cluster has GPUs."""
    max_failures: int = 1
    """Times that a category is started again after its worker died or its storage did."""
    backoff_s: float = 5.0
    """Seconds before a category is started again; doubled with each further time."""
    checkpoint_s: float = 60.0
    """Seconds between two checkpoints of a training, taken at the end of an epoch."""
    progress_s: float = 30.0
    """Seconds between two lines on the fleet as a whole."""
    gate_images: int = 500
    """Labelled images of each kind, at most, that a new model is measured by."""
    max_failed_share: float = 0.0
    force: bool = False
    """Train again although an equal version stands, into a suffixed version."""

    def __post_init__(self) -> None:
        check_range("fleet.workers_per_category", self.workers_per_category, 1, 1024)
        check_range("fleet.cpus_per_worker", self.cpus_per_worker, 0, 4096)
        check_range("fleet.gpus_per_worker", self.gpus_per_worker, 0, 1024)
        check_range("fleet.max_failures", self.max_failures, 0, 100)
        check_range("fleet.backoff_s", self.backoff_s, 0, 3600)
        check_range("fleet.checkpoint_s", self.checkpoint_s, 0, 86400)
        check_range("fleet.progress_s", self.progress_s, 0.1, 86400)
        check_range("fleet.gate_images", self.gate_images, 8, 10**6)
        check_range("fleet.max_failed_share", self.max_failed_share, 0, 1)
        gpus, workers = self.gpus_per_worker, self.workers_per_category
        if gpus % 1 and gpus > 1:
            raise ConfigError(f"fleet.gpus_per_worker is {gpus:g}: a fraction, or whole GPUs")
        if gpus % 1 and workers > 1:
            raise ConfigError(
                f"fleet.gpus_per_worker is {gpus:g} with {workers} workers_per_category: a "
                "fraction of a GPU is for one worker a category, NCCL refuses two on one device; "
                "give each worker a whole GPU, or each category one worker"
            )


@dataclass(frozen=True)
class PriceConfig(Config):
    """What an hour costs, for `--plan`."""

    cpu_hour: float = 0.0
    gpu_hour: float = 0.0
    currency: str = "USD"

    def __post_init__(self) -> None:
        check_range("price.cpu_hour", self.cpu_hour, 0, 10**6)
        check_range("price.gpu_hour", self.gpu_hour, 0, 10**6)


@dataclass(frozen=True)
class TrainConfig(Config):
    """FLEET.toml: one training for each category of a data set."""

    workspace: str
    run: str
    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    train: FitConfig = field(default_factory=FitConfig)
    roi: RoiConfig = field(default_factory=RoiConfig)
    fleet: FleetConfig = field(default_factory=FleetConfig)
    price: PriceConfig = field(default_factory=PriceConfig)
    category: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Tables `[category."pattern".model]`, `.train` and `.roi` with what differs for the categories
    whose name fits the shell pattern; where several fit, the later one wins."""

    def __post_init__(self) -> None:
        check_name("run", self.run)
        for pattern, table in self.category.items():
            for section in table:
                if section not in _PER_CATEGORY:
                    raise ConfigError(
                        f"unknown table category.{pattern!r}.{section}"
                        f"{nearest(section, list(_PER_CATEGORY))}"
                    )
            try:
                replace(self, category={}).with_values(flattened(table))
            except ConfigError as error:
                raise ConfigError(f"category.{pattern!r}: {error}") from error

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """As every config's, above the preset that `model.preset` names."""
        model = raw.get("model", {})
        if isinstance(model, Mapping):
            raw = merged(_preset(model.get("preset", ModelConfig.preset)), raw)
        return super().from_dict(raw)

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """As every config's; a `model.preset` among the values brings its own, below the others."""
        if "model.preset" in values:
            values = flattened(_preset(values["model.preset"])) | dict(values)
        return super().with_values(values)

    def for_category(self, name: str) -> Self:
        """The config of one category: what its patterns change is changed, and no pattern left."""
        config = replace(self, category={})
        for pattern, table in self.category.items():
            if fnmatchcase(name, pattern):
                config = config.with_values(flattened(table))
        return config


_PER_CATEGORY = ("model", "train", "roi")


@dataclass(frozen=True)
class ArchiveConfig(Config):
    """The images of a night (system sections 4 and 8)."""

    uri: str
    template: str = "{category}/{name}"
    """How a key below `uri` is read; fields other than category and name become attributes."""
    suffixes: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
    truncated: Literal["error", "accept"] = "error"
    max_pixels: int = 100_000_000
    max_bytes: int = 64 * 2**20

    def __post_init__(self) -> None:
        if "{category}" not in self.template or "{name}" not in self.template:
            raise ConfigError(
                f"archive.template is {self.template!r}: it must hold {{category}} and {{name}}"
            )
        check_range("archive.max_pixels", self.max_pixels, 1, 2**31)
        check_range("archive.max_bytes", self.max_bytes, 1, 2**40)


@dataclass(frozen=True)
class RowsConfig(Config):
    """What is stored of each image (system section 3)."""

    map: Literal["float16", "float32", "uint8", "none"] = "float16"
    map_size: int = 64
    """Side of the stored map in pixels; the model's own size is `model.image_size`."""
    max_regions: int = 32
    shard_rows: int = 256
    shard_bytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        check_range("rows.map_size", self.map_size, 1, 4096)
        check_range("rows.max_regions", self.max_regions, 0, 1000)
        check_range("rows.shard_rows", self.shard_rows, 1, 10**6)
        check_range("rows.shard_bytes", self.shard_bytes, 1, 2**40)


@dataclass(frozen=True)
class PoolConfig(Config):
    """How the pipeline uses the cluster (system section 5)."""

    scorers: int = 0
    """Scorer actors; 0: one a GPU, or one a node with CPUs alone."""
    gpus_per_scorer: float = 0.0
    batch_size: int = 16
    """The one fixed shape of every forward pass; the last batch is padded."""
    models_in_memory: int = 2
    max_shard_attempts: int = 5
    device: Device = "auto"
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        check_range("pool.scorers", self.scorers, 0, 10**5)
        check_range("pool.gpus_per_scorer", self.gpus_per_scorer, 0, 64)
        check_range("pool.batch_size", self.batch_size, 1, 4096)
        check_range("pool.models_in_memory", self.models_in_memory, 1, 10**4)
        check_range("pool.max_shard_attempts", self.max_shard_attempts, 1, 1000)


@dataclass(frozen=True)
class ScoreConfig(Config):
    """SCORE.toml: an archive of images to rows in Parquet."""

    workspace: str
    run: str
    archive: ArchiveConfig
    rows: RowsConfig = field(default_factory=RowsConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    max_error_share: float = 0.01

    def __post_init__(self) -> None:
        check_name("run", self.run)
        check_range("max_error_share", self.max_error_share, 0, 1)


@dataclass(frozen=True)
class EvalConfig(Config):
    """EVAL.toml: the champions of a workspace on labelled data."""

    workspace: str
    run: str
    data: DataConfig
    part: Literal["test", "val", "all"] = "test"
    """Which part of the labelled images is evaluated."""
    resamples: int = 1000
    """Bootstrap resamples behind each 95 % interval."""
    seed: int = 0
    pool: PoolConfig = field(default_factory=PoolConfig)
    max_failed_share: float = 0.0

    def __post_init__(self) -> None:
        check_name("run", self.run)
        check_range("resamples", self.resamples, 0, 10**6)
        check_range("max_failed_share", self.max_failed_share, 0, 1)


def presets() -> list[str]:
    """Names of the presets that come with mrkd."""
    folder = resources.files("mrkd") / "presets"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def _preset(name: object) -> dict[str, Any]:
    if name not in presets():
        raise ConfigError(f"model.preset is {name!r}{nearest(name, presets())}")
    text = (resources.files("mrkd") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
