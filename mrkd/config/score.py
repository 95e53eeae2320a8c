"""SCORE.toml: what is scored, and what is kept of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from mrkd.config import durations
from mrkd.config.data import PriceConfig, check_name
from mrkd.config.model import Device, ScoringPrecision
from mrkd.config.toml import Config, check_range
from mrkd.errors import ConfigError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class ArchiveConfig(Config):
    """The images of a night (system sections 4 and 8)."""

    uri: str = ""
    """What is listed, or, beside a manifest, the base below which its keys are read."""
    manifest: str = ""
    """Parquet, CSV or an S3 Inventory's `manifest.json` instead of a listing."""
    template: str = "{category}/{name}"
    """How a key below `uri` is read; fields other than category and name become attributes."""
    suffixes: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
    tars: tuple[str, ...] = (".tar",)
    """Suffixes of files whose members are the images."""
    truncated: Literal["error", "accept"] = "error"
    max_pixels: int = 100_000_000
    max_bytes: int = 64 * 2**20

    def __post_init__(self) -> None:
        if not self.uri and not self.manifest:
            raise ConfigError("archive has neither uri nor manifest: name what is to be scored")
        if "{name}" not in self.template:
            raise ConfigError(f"archive.template is {self.template!r}: it must hold {{name}}")
        check_range("archive.max_pixels", self.max_pixels, 1, 2**31)
        check_range("archive.max_bytes", self.max_bytes, 1, 2**40)


@dataclass(frozen=True)
class RowsConfig(Config):
    """What is stored of each image (system section 3)."""

    map: Literal["float16", "float32", "uint8", "none"] = "float16"
    map_size: int = 64
    """Side of the stored map in pixels; the model's own size is `model.image_size`."""
    map_full: Literal["never", "anomalous"] = "never"
    """Whose map is stored at the model's size instead."""
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
    """Scorer actors; 0: one a GPU, or one a CPU where there is none. On a CPU each holds its own
    teacher and models, some 0.6 GB."""
    gpus_per_scorer: float = 0.0
    batch_size: int = 16
    """The one fixed shape of every forward pass; the last batch is padded."""
    models_in_memory: int = 2
    max_shard_attempts: int = 5
    gets_per_node: int = 64
    """Images that a node asks of the archive at one time, at most."""
    device: Device = "auto"
    precision: ScoringPrecision = "auto"
    """Of the student; teacher, map and score are always float32, as thresholds are. `auto` is
    float32; float16 is for GPUs, and moves scores by less than 0.001 of their range."""

    def __post_init__(self) -> None:
        check_range("pool.scorers", self.scorers, 0, 10**5)
        check_range("pool.gpus_per_scorer", self.gpus_per_scorer, 0, 64)
        check_range("pool.batch_size", self.batch_size, 1, 4096)
        check_range("pool.models_in_memory", self.models_in_memory, 1, 10**4)
        check_range("pool.max_shard_attempts", self.max_shard_attempts, 1, 1000)
        check_range("pool.gets_per_node", self.gets_per_node, 1, 10**4)


@dataclass(frozen=True)
class GoldenConfig(Config):
    """Reference parts, photographed anew and scored before each night."""

    uri: str = ""
    """Folder of their pictures; empty: none."""
    template: str = "{category}/{label}/{name}"
    """`label` is good or bad."""
    tolerance: float = 3.0
    """How far a score may leave the range first seen, in spreads of the held-out scores."""

    def __post_init__(self) -> None:
        if missing := [f for f in ("category", "label", "name") if f"{{{f}}}" not in self.template]:
            raise ConfigError(f"golden.template is {self.template!r}: it lacks {missing}")
        check_range("golden.tolerance", self.tolerance, 0, 1000)


@dataclass(frozen=True)
class PartsConfig(Config):
    """One verdict a part, where the template names `part` and its `view`."""

    views: tuple[str, ...] = ()
    """Views that every part must have; empty: what others of its category have is named."""

    def __post_init__(self) -> None:
        if "" in self.views or len(set(self.views)) < len(self.views):
            raise ConfigError(f"parts.views is {list(self.views)}: name each view once")


@dataclass(frozen=True)
class AlertsConfig(Config):
    """What of a night asks for somebody, each category and line by itself."""

    error_share: float = 0.01
    """Share of the images without a score, above which there is one."""
    nok_rate: float = 0.0
    """Share of the scored images that are NOK, likewise; 0: no limit."""
    silent_lines: bool = True
    """Whether a line that usually sends images, and sent none, is one."""
    drift: Literal["red", "amber"] = "red"
    """From which of the page's lights on there is one."""
    webhook: str = ""
    """Environment variable that holds the URL they are sent to; empty: they are only stored."""

    def __post_init__(self) -> None:
        check_range("alerts.error_share", self.error_share, 0, 1)
        check_range("alerts.nok_rate", self.nok_rate, 0, 1)
        if self.webhook and not _VARIABLE.fullmatch(self.webhook):
            raise ConfigError(
                "alerts.webhook is no name of an environment variable: put the URL into one, as "
                "it holds a secret, and its name here"
            )


@dataclass(frozen=True)
class DeadlineConfig(Config):
    """Until when a night is to be done."""

    within: str = ""
    """Of each revision, from when it was planned, as in 6h; empty: there is no deadline."""
    degraded: Literal["never", "scores_only"] = "never"
    """`scores_only`: once a night is foreseen to be late, no map is stored of what is left."""

    def __post_init__(self) -> None:
        if self.within and not self.span:
            raise ConfigError(f"deadline.within is {self.within!r}: no night ends at once")
        if self.degraded != "never" and not self.within:
            raise ConfigError(
                f"deadline.degraded is {self.degraded!r}, and there is no deadline.within to be "
                "late for: set it, as in 6h"
            )

    @property
    def span(self) -> timedelta | None:
        """What `within` says; None where there is no deadline."""
        return durations.parse("deadline.within", self.within) if self.within else None


@dataclass(frozen=True)
class ScoreConfig(Config):
    """SCORE.toml: an archive of images to rows in Parquet."""

    workspace: str
    run: str
    archive: ArchiveConfig
    rows: RowsConfig = field(default_factory=RowsConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    golden: GoldenConfig = field(default_factory=GoldenConfig)
    parts: PartsConfig = field(default_factory=PartsConfig)
    alerts: AlertsConfig = field(default_factory=AlertsConfig)
    deadline: DeadlineConfig = field(default_factory=DeadlineConfig)
    price: PriceConfig = field(default_factory=PriceConfig)
    models: str = ""
    """Instead of the champions: a JSON or TOML file of category = version, or a fleet's folder,
    whose versions score, held ones too. A category that it leaves out has its champion."""
    retry_errors: tuple[str, ...] = ()
    """Kinds of errors whose images are scored again, in a new revision."""
    force: bool = False
    """Scores even where the golden set lies outside its band."""
    max_error_share: float = 0.01

    def __post_init__(self) -> None:
        check_name("run", self.run)
        check_range("max_error_share", self.max_error_share, 0, 1)
