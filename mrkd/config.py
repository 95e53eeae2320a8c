"""Configs: frozen dataclasses, opened from TOML at the door and never changed after.

A config file holds only what differs from the defaults below. `model.preset` names a file of
`mrkd/presets`, whose `[model]` and `[train]` tables come before the user's own keys.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal, Self, TypeVar

from mrkd.errors import ConfigError

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
class Config:
    """What every config can do; holds no field itself."""

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The config that `raw`, nested like the TOML file, describes.

        Raises:
            ConfigError: an unknown key (with the nearest known one), a missing key, or a value of
                the wrong type or outside its range.
        """
        if "model" in cls.__dataclass_fields__ and isinstance(raw.get("model", {}), Mapping):
            preset = raw.get("model", {}).get("preset", ModelConfig.preset)
            raw = _merge(_preset(preset), raw)
        return _build(cls, raw, "")

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """The config of a TOML file's text; errors as `from_dict`, and for text that is no TOML."""
        try:
            return cls.from_dict(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"not a TOML file: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers; `from_dict` of it is equal to this config."""
        return typing.cast(dict[str, Any], _plain(dataclasses.asdict(self)))

    def to_toml(self) -> str:
        """The whole config, defaults included, as a TOML file."""
        return "\n".join(_toml_lines(self.to_dict(), "")) + "\n"

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """A copy with some fields changed, named by dotted paths such as `train.mask_rate`.

        Raises:
            ConfigError: as `from_dict`.
        """
        raw = self.to_dict()
        put_values(raw, values)
        return type(self).from_dict(raw)

    def digest(self) -> str:
        """Sha256 over the resolved config, the same for equal configs on every machine."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


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
        _range("model.image_size", self.image_size, 32, 4096)
        _range("model.sru_groups", self.sru_groups, 1, 4096)
        _range("model.smooth", self.smooth, 0, 64)
        _range("model.anchor", self.anchor, 0, 10)
        _range("model.top_share", self.top_share, 1e-6, 1)
        _range("model.mean_weight", self.mean_weight, 0, 10)
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
        _range("train.seed", self.seed, 0, 2**63 - 1)
        _range("train.mask_cell", self.mask_cell, 1, 64)
        _range("train.hard_pixel_share", self.hard_pixel_share, 0, 1)
        _range("train.learning_rate", self.learning_rate, 1e-8, 1)
        _range("train.weight_decay", self.weight_decay, 0, 1)
        _range("train.warmup_steps", self.warmup_steps, 0, 10**6)
        _range("train.batch_size", self.batch_size, 2, 4096)
        _range("train.max_epochs", self.max_epochs, 1, 10**5)
        _range("train.max_steps", self.max_steps, 0, 10**7)
        _range("train.patience", self.patience, 1, 10**5)
        _range("train.validation_share", self.validation_share, 0.01, 0.5)
        _range("train.calibration_share", self.calibration_share, 0.01, 0.5)
        _range("train.false_call_rate", self.false_call_rate, 1e-6, 0.5)
        _range("train.cache_bytes", self.cache_bytes, 0, 2**50)


@dataclass(frozen=True)
class FleetConfig(Config):
    """How a fleet of categories shares the cluster (system section 6)."""

    workers_per_category: int = 1
    cpus_per_worker: float = 0.0
    """0: all of a node's, shared by the categories that run at once on it."""
    gpus_per_worker: float = 0.0
    max_failures: int = 1
    """Times that a category is started again after its worker died."""
    max_failed_share: float = 0.0
    force: bool = False
    """Train again although an equal version stands, into a suffixed version."""

    def __post_init__(self) -> None:
        _range("fleet.workers_per_category", self.workers_per_category, 1, 1)
        _range("fleet.cpus_per_worker", self.cpus_per_worker, 0, 4096)
        _range("fleet.gpus_per_worker", self.gpus_per_worker, 0, 1024)
        _range("fleet.max_failures", self.max_failures, 0, 100)
        _range("fleet.max_failed_share", self.max_failed_share, 0, 1)


@dataclass(frozen=True)
class TrainConfig(Config):
    """FLEET.toml: one training for each category of a data set."""

    workspace: str
    run: str
    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    train: FitConfig = field(default_factory=FitConfig)
    fleet: FleetConfig = field(default_factory=FleetConfig)

    def __post_init__(self) -> None:
        check_name("run", self.run)


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
        _range("archive.max_pixels", self.max_pixels, 1, 2**31)
        _range("archive.max_bytes", self.max_bytes, 1, 2**40)


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
        _range("rows.map_size", self.map_size, 1, 4096)
        _range("rows.max_regions", self.max_regions, 0, 1000)
        _range("rows.shard_rows", self.shard_rows, 1, 10**6)
        _range("rows.shard_bytes", self.shard_bytes, 1, 2**40)


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
        _range("pool.scorers", self.scorers, 0, 10**5)
        _range("pool.gpus_per_scorer", self.gpus_per_scorer, 0, 64)
        _range("pool.batch_size", self.batch_size, 1, 4096)
        _range("pool.models_in_memory", self.models_in_memory, 1, 10**4)
        _range("pool.max_shard_attempts", self.max_shard_attempts, 1, 1000)


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
        _range("max_error_share", self.max_error_share, 0, 1)


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
        _range("resamples", self.resamples, 0, 10**6)
        _range("max_failed_share", self.max_failed_share, 0, 1)


T = TypeVar("T", bound=Config)


def put_values(raw: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Sets keys of nested tables in place, named by dotted paths; absent tables are made.

    Raises:
        ConfigError: a path leads through a value that is no table.
    """
    for dotted, value in values.items():
        table = raw
        *parents, leaf = dotted.split(".")
        for name in parents:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{dotted!r}: {name!r} is a value, not a table")
        table[leaf] = value


def presets() -> list[str]:
    """Names of the presets that come with mrkd."""
    folder = resources.files("mrkd") / "presets"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def _preset(name: object) -> dict[str, Any]:
    if name not in presets():
        raise ConfigError(f"model.preset is {name!r}{_nearest(name, presets())}")
    text = (resources.files("mrkd") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = _merge(out[key], value) if both else value
    return out


def _build(cls: type[T], raw: object, path: str) -> T:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path or 'the config'} must be a table, found {type(raw).__name__}")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    # Presets hold [model] and [train]; a config without one of the two does not read that table.
    for key in raw:
        if key not in known:
            raise ConfigError(
                f"unknown key {_join(path, key)!r} in {cls.__name__}{_nearest(key, list(known))}"
            )
    for name, spec in known.items():
        if (
            name not in raw
            and spec.default is dataclasses.MISSING
            and spec.default_factory is dataclasses.MISSING
        ):
            raise ConfigError(f"missing key {_join(path, name)!r} in {cls.__name__}")
    return cls(**{key: _value(hints[key], raw[key], _join(path, key)) for key in raw})


def _value(hint: Any, raw: object, path: str) -> Any:
    if isinstance(hint, type) and issubclass(hint, Config):
        return _build(hint, raw, path)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if raw not in arguments:
            choices = ", ".join(map(repr, arguments))
            raise ConfigError(f"{path} is {raw!r}, allowed: {choices}")
        return raw
    if origin in (typing.Union, types.UnionType):
        return None if raw is None else _value(arguments[0], raw, path)
    if origin is tuple:
        if not isinstance(raw, list | tuple):
            raise ConfigError(f"{path} must be a list, found {type(raw).__name__}")
        return tuple(_value(arguments[0], item, f"{path}[{n}]") for n, item in enumerate(raw))
    if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if type(raw) is not hint or (isinstance(raw, float) and not math.isfinite(raw)):
        raise ConfigError(f"{path} must be {hint.__name__}, found {raw!r}")
    return raw


def _nearest(name: object, known: list[str]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _range(path: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{path} is {value}: it must lie between {low:g} and {high:g}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _toml_lines(table: Mapping[str, Any], path: str) -> list[str]:
    lines = [f"{k} = {_toml_value(v)}" for k, v in table.items() if not isinstance(v, dict)]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += ["", f"[{_join(path, key)}]", *_toml_lines(value, _join(path, key))]
    return lines


def _toml_value(value: object) -> str:
    # JSON's strings, numbers, booleans and lists are TOML's; json writes control characters as
    # \u escapes, which TOML reads too.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
