"""FLEET.toml: one training for each category."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib import resources
from typing import Annotated, Any, Self

from mrkd.config.data import DataConfig, ExecutorName, PriceConfig, check_labels, check_name
from mrkd.config.model import FitConfig, ModelConfig
from mrkd.config.toml import Config, Range, Uri, flattened, merged, nearest
from mrkd.errors import ConfigError

PER_CATEGORY = ("model", "train", "roi")
"""Tables that may differ for single categories."""


@dataclass(frozen=True)
class RoiConfig(Config, table="roi"):
    """The region of a part that is inspected; the rest is neither learnt nor scored."""

    mask: Uri = ""
    """Image of the originals' size, brighter than half where the part is inspected."""
    polygons: tuple[tuple[tuple[float, ...], ...], ...] = ()
    """Outlines instead of a mask, each a list of three or more points `[x, y]` in original pixels;
    what lies inside one of them is inspected."""

    def _check(self) -> None:
        if self.mask and self.polygons:
            raise ConfigError("roi.mask and roi.polygons exclude each other: keep one")
        for number, polygon in enumerate(self.polygons):
            if len(polygon) < 3 or any(len(point) != 2 for point in polygon):
                raise ConfigError(
                    f"roi.polygons[{number}] is {[list(point) for point in polygon]}: it must be "
                    "three or more points, each [x, y]"
                )


@dataclass(frozen=True)
class FleetConfig(Config, table="fleet"):
    """How a fleet of categories shares the cluster (system section 6)."""

    workers_per_category: Annotated[int, Range(1, 1024)] = 1
    """Workers that share each batch of one training (data parallel)."""
    cpus_per_worker: Annotated[float, Range(0, 4096)] = 0.0
    """CPU cores of one worker; 0: all of its node, shared by the workers that run on it at once."""
    gpus_per_worker: Annotated[float, Range(0, 1024)] = 0.0
    """GPUs of one worker; a fraction shares a GPU between categories; 0: one, where the cluster has
    GPUs."""
    memory_per_worker: Annotated[float, Range(0, 65536, "GiB")] = 0.0
    """Memory that one worker asks of its node; 0: it asks for none, and Ray counts none."""
    node_labels: tuple[str, ...] = ()
    """Labels of the nodes that may train, as `key=value`, such as
    `ray.io/accelerator-type=H100`; empty: all nodes."""
    max_failures: Annotated[int, Range(0, 100)] = 1
    """Times that a category is started again after its worker died or its storage failed. A node
    that is lost, or has no memory left, does not count."""
    backoff_s: Annotated[float, Range(0, 3600, "seconds")] = 5.0
    """Time before a category is started again; doubled each further time."""
    checkpoint_s: Annotated[float, Range(0, 86400, "seconds")] = 60.0
    """Least time between two checkpoints of a training, taken at the end of an epoch."""
    progress_s: Annotated[float, Range(0.1, 86400, "seconds")] = 30.0
    """Time between two log lines on the fleet as a whole."""
    gate_images: Annotated[int, Range(8, 10**6, "images")] = 200
    """Most labelled images of each kind that the gate measures a new model on."""
    max_failed_share: Annotated[float, Range(0, 1)] = 0.0
    """Share of failed categories above which the exit code is 3."""
    force: bool = False
    """Whether to train again although an equal version exists, as a suffixed version."""

    def _check(self) -> None:
        check_labels("fleet.node_labels", self.node_labels)
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

    workspace: Uri
    """Folder of the models and of all that is stored about runs."""
    run: str
    """Name of the run; the same name resumes it."""
    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    train: FitConfig = field(default_factory=FitConfig)
    roi: RoiConfig = field(default_factory=RoiConfig)
    fleet: FleetConfig = field(default_factory=FleetConfig)
    price: PriceConfig = field(default_factory=PriceConfig)
    executor: ExecutorName = "auto"
    """Where the work runs: `ray`: the cluster at RAY_ADDRESS, else a local Ray; `in_process`:
    threads of this process; `auto`: Ray, unless no cluster is given and the run is done
    before a local Ray would have started."""
    category: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Tables `[category."pattern".model]`, `.train` and `.roi` of what differs for the categories
    whose name fits the shell pattern; where several fit, the later one wins."""

    def _check(self) -> None:
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
                if section not in PER_CATEGORY:
                    raise ConfigError(
                        f"unknown table category.{pattern!r}.{section}"
                        f"{nearest(section, list(PER_CATEGORY))}"
                    )
            try:
                replace(self, category={}).with_values(flattened(table))
            except ConfigError as error:
                raise ConfigError(f"category.{pattern!r}: {error}") from error

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The config of `raw` above the preset that its `model.preset` names."""
        model = raw.get("model", {})
        if isinstance(model, Mapping):
            raw = merged(preset_values(model.get("preset", ModelConfig.preset)), raw)
        return super().from_dict(raw)

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """A copy with some fields changed; a new `model.preset` replaces the earlier one.

        Values of the earlier preset fall back to the defaults, unless they were changed since; the
        other values given take precedence over the new preset's.
        """
        if "model.preset" in values:
            defaults = {"model": ModelConfig().to_dict(), "train": FitConfig().to_dict()}
            before = flattened(preset_values(self.model.preset))
            now = flattened(self.to_dict())
            kept = {key for key, value in before.items() if now[key] != value}
            fallen = {k: v for k, v in flattened(defaults).items() if k in before.keys() - kept}
            values = fallen | flattened(preset_values(values["model.preset"])) | dict(values)
        return super().with_values(values)

    def base(self) -> TrainConfig:
        """The part of a config that is a fleet's."""
        raw = self.to_dict()
        return TrainConfig.from_dict({name: raw[name] for name in TrainConfig.__dataclass_fields__})

    def for_category(self, name: str) -> Self:
        """The config of one category, with the tables of its patterns applied and removed."""
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


def preset_values(name: object) -> dict[str, Any]:
    """The tables of a preset.

    Raises:
        ConfigError: there is not a preset of that name.
    """
    if name not in presets():
        raise ConfigError(f"model.preset is {name!r}{nearest(name, presets())}")
    text = (resources.files("mrkd.config") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
