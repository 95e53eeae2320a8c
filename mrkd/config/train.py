"""FLEET.toml: one training for each category."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib import resources
from typing import Any, Self

from mrkd.config.data import DataConfig, PriceConfig, check_name
from mrkd.config.model import FitConfig, ModelConfig
from mrkd.config.toml import Config, check_range, flattened, merged, nearest
from mrkd.errors import ConfigError

_PER_CATEGORY = ("model", "train", "roi")


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
    gate_images: int = 200
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
        if self.train.augment == "flips" and (self.roi.mask or self.roi.polygons):
            raise ConfigError(
                "train.augment is 'flips' with a region of interest, which does not flip with the "
                "image: set it to none"
            )
        if self.model.tiles and (self.roi.mask or self.roi.polygons):
            raise ConfigError("model.tiles and roi exclude each other: crop the images, or set one")
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
        """As every config's; a `model.preset` takes the place of the one before.

        What the one before had set falls back to the default, unless it was changed since; the
        other values given lie above the new preset's.
        """
        if "model.preset" in values:
            defaults = {"model": ModelConfig().to_dict(), "train": FitConfig().to_dict()}
            before = flattened(_preset(self.model.preset))
            now = flattened(self.to_dict())
            kept = {key for key, value in before.items() if now[key] != value}
            fallen = {k: v for k, v in flattened(defaults).items() if k in before.keys() - kept}
            values = fallen | flattened(_preset(values["model.preset"])) | dict(values)
        return super().with_values(values)

    def base(self) -> TrainConfig:
        """The fleet alone, of a config that holds more."""
        raw = self.to_dict()
        return TrainConfig.from_dict({name: raw[name] for name in TrainConfig.__dataclass_fields__})

    def for_category(self, name: str) -> Self:
        """The config of one category: what its patterns change is changed, and no pattern left."""
        config = replace(self, category={})
        for pattern, table in self.category.items():
            if fnmatchcase(name, pattern):
                config = config.with_values(flattened(table))
        return config

    def for_categories(self, names: Sequence[str]) -> dict[str, Self]:
        """`for_category` of each.

        Raises:
            ConfigError: a pattern of `category` fits none of them.
        """
        for pattern in self.category:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(f"category.{pattern!r} fits none{nearest(pattern, list(names))}")
        return {name: self.for_category(name) for name in names}


def presets() -> list[str]:
    """Names of the presets that come with mrkd."""
    folder = resources.files("mrkd.config") / "presets"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def _preset(name: object) -> dict[str, Any]:
    if name not in presets():
        raise ConfigError(f"model.preset is {name!r}{nearest(name, presets())}")
    text = (resources.files("mrkd.config") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
