"""SCORE.toml: the images of a night, and what is stored of each."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Literal

from mrkd.config import durations
from mrkd.config.data import ExecutorName, PriceConfig, check_labels, check_name
from mrkd.config.model import Device, ScoringPrecision
from mrkd.config.toml import Config, Range, Uri
from mrkd.errors import ConfigError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class ArchiveConfig(Config, table="archive"):
    """The images of a night (system sections 4 and 8)."""

    uri: Uri = ""
    """Folder whose images are listed, or, with a manifest, the folder its keys are below."""
    manifest: Uri = ""
    """Parquet or CSV file, or an S3 Inventory's `manifest.json`, read instead of a listing."""
    template: str = "{category}/{name}"
    """Pattern of the keys below `uri`; fields other than category and name become attributes."""
    suffixes: tuple[str, ...] = (
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp"),
    )
    """Endings of image files."""
    tars: tuple[str, ...] = (".tar",)
    """Endings of files whose members are the images."""
    truncated: Literal["error", "accept"] = "error"
    """Whether a JPEG that was cut off is an error, or scored with the rest grey."""
    max_pixels: Annotated[int, Range(1, 2**31, "pixels")] = 100_000_000
    """Size of an image above which it is an error."""
    max_bytes: Annotated[int, Range(1, 2**40, "bytes")] = 64 * 2**20
    """Size of a file above which it is an error."""

    def _check(self) -> None:
        if not self.uri and not self.manifest:
            raise ConfigError("archive has neither uri nor manifest: name what is to be scored")
        if "{name}" not in self.template:
            raise ConfigError(f"archive.template is {self.template!r}: it must hold {{name}}")


@dataclass(frozen=True)
class RowsConfig(Config, table="rows"):
    """What is stored of each image (system section 3)."""

    map: Literal["float16", "float32", "uint8", "none"] = "float16"
    """Number format of the stored anomaly maps; `none`: they are not stored."""
    map_size: Annotated[int, Range(1, 4096, "pixels")] = 64
    """Side of the stored map; the model's own size is `model.image_size`."""
    map_full: Literal["never", "anomalous"] = "never"
    """Images whose map is stored at the model's size instead."""
    unlike: Literal["error", "accept"] = "error"
    """What becomes of an image that would be OK, but lies outside all good images in brightness,
    contrast, sharpness, tint, skewness, size or mean of its map: an error row, or OK."""
    max_regions: Annotated[int, Range(0, 1000)] = 32
    """Most defect regions stored for one image."""
    shard_rows: Annotated[int, Range(1, 10**6, "images")] = 256
    """Most images of one Parquet file."""
    shard_bytes: Annotated[int, Range(1, 2**40, "bytes")] = 256 * 2**20
    """Most image bytes behind one Parquet file."""


@dataclass(frozen=True)
class PoolConfig(Config, table="pool"):
    """How scoring uses the cluster (system section 5)."""

    scorers: Annotated[int, Range(0, 10**5)] = 0
    """Scorer actors; 0: one for each GPU, or for each CPU where there is none. On a CPU each holds
    its own teacher and models, some 0.6 GB."""
    gpus_per_scorer: Annotated[float, Range(0, 64)] = 0.0
    """GPUs of one scorer, or a fraction; 0: one where there are GPUs."""
    memory_per_scorer: Annotated[float, Range(0, 65536, "GiB")] = 0.0
    """Memory that one scorer asks of its node; 0: it asks for none, and Ray counts none."""
    node_labels: tuple[str, ...] = ()
    """Labels of the nodes that may score, as `key=value`; empty: all nodes."""
    reader_labels: tuple[str, ...] = ()
    """Labels of the nodes that may read and decode, such as `ray.io/node-group=decode`, so that
    reading does not wake GPU nodes; empty: all nodes."""
    batch_size: Annotated[int, Range(1, 4096, "images")] = 16
    """Images of every forward pass; the last batch is padded."""
    cuda_batch_size: Annotated[int, Range(1, 4096, "images")] = 64
    """Images of every forward pass on a GPU, instead of `batch_size`; halved where memory runs
    out."""
    models_in_memory: Annotated[int, Range(1, 10**4)] = 2
    """Most models that a scorer holds in memory at one time."""
    max_shard_attempts: Annotated[int, Range(1, 1000)] = 5
    """Times that a shard is tried before the run fails."""
    gets_per_node: Annotated[int, Range(1, 10**4, "images")] = 64
    """Most images that a node requests from the archive at one time."""
    device: Device = "auto"
    """Device to score on; `auto`: a GPU if there is one."""
    precision: ScoringPrecision = "auto"
    """Number format that every model must have been calibrated in (`model.precision`); a model of
    another is refused, as its thresholds do not hold. `auto`: each model's own."""

    def _check(self) -> None:
        check_labels("pool.node_labels", self.node_labels)
        check_labels("pool.reader_labels", self.reader_labels)


@dataclass(frozen=True)
class GoldenConfig(Config, table="golden"):
    """Reference parts, photographed anew and scored before each night."""

    uri: Uri = ""
    """Folder of their images; empty: there are none."""
    template: str = "{category}/{label}/{name}"
    """Pattern of the keys below `uri`; `label` is good or bad."""
    tolerance: Annotated[float, Range(0, 1000, "spreads")] = 3.0
    """How far a score may leave the range first seen, in spreads of the held-out scores."""

    def _check(self) -> None:
        if missing := [f for f in ("category", "label", "name") if f"{{{f}}}" not in self.template]:
            raise ConfigError(f"golden.template is {self.template!r}: it lacks {missing}")


@dataclass(frozen=True)
class PartsConfig(Config, table="parts"):
    """One verdict for each part, where the template names `part` and its `view`."""

    views: tuple[str, ...] = ()
    """Views that every part must have; empty: those that other parts of its category have."""

    def _check(self) -> None:
        if "" in self.views or len(set(self.views)) < len(self.views):
            raise ConfigError(f"parts.views is {list(self.views)}: name each view once")


@dataclass(frozen=True)
class AlertsConfig(Config, table="alerts"):
    """Limits of a night that raise an alert, for each category and line by itself."""

    error_share: Annotated[float, Range(0, 1)] = 0.01
    """Share of images without a score above which there is an alert."""
    nok_rate: Annotated[float, Range(0, 1)] = 0.0
    """Share of NOK among the scored images above which there is an alert; 0: no limit."""
    silent_lines: bool = True
    """Whether there is an alert where a line that usually sends images sent none."""
    drift: Literal["red", "amber"] = "red"
    """Light of the page's drift section from which on there is an alert."""
    webhook: str = ""
    """Environment variable that holds the URL that alerts are sent to; empty: they are only
    stored."""

    def _check(self) -> None:
        if self.webhook and not _VARIABLE.fullmatch(self.webhook):
            raise ConfigError(
                "alerts.webhook is not a name of an environment variable: put the URL into one, as "
                "it holds a secret, and its name here"
            )


@dataclass(frozen=True)
class DeadlineConfig(Config, table="deadline"):
    """The time by which a night is to be done."""

    within: str = ""
    """Time for each revision from when it was planned, such as 6h; empty: without a deadline."""
    degraded: Literal["never", "scores_only"] = "never"
    """What is left out once a night is forecast to be late: `scores_only` stores scores without
    maps for the images that remain."""

    def _check(self) -> None:
        if self.within and not self.span:
            raise ConfigError(f"deadline.within is {self.within!r}: no night ends at once")
        if self.degraded != "never" and not self.within:
            raise ConfigError(
                f"deadline.degraded is {self.degraded!r}, and deadline.within is not set: set "
                "it, as in 6h"
            )

    @property
    def span(self) -> timedelta | None:
        """The time of `within`; None without a deadline."""
        return durations.parse("deadline.within", self.within) if self.within else None


@dataclass(frozen=True)
class ScoreConfig(Config):
    """SCORE.toml: an archive of images to rows in Parquet."""

    workspace: Uri
    """Folder of the models, and of the nights that are written."""
    run: str
    """Name of the night; the same name resumes it."""
    archive: ArchiveConfig
    rows: RowsConfig = field(default_factory=RowsConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    golden: GoldenConfig = field(default_factory=GoldenConfig)
    parts: PartsConfig = field(default_factory=PartsConfig)
    alerts: AlertsConfig = field(default_factory=AlertsConfig)
    deadline: DeadlineConfig = field(default_factory=DeadlineConfig)
    price: PriceConfig = field(default_factory=PriceConfig)
    executor: ExecutorName = "auto"
    """Where the work runs: `ray`: the cluster at RAY_ADDRESS, else a local Ray; `in_process`:
    threads of this process; `auto`: Ray, unless no cluster is given and the run is done
    before a local Ray would have started."""
    # Not a Uri: a night that is resumed is compared with what was written when it began.
    models: str = ""
    """JSON or TOML file of category = version, or a fleet's folder: versions that score instead of
    the champions, held ones too. A category that is not named has its champion."""
    retry_errors: tuple[str, ...] = ()
    """Kinds of errors whose images are scored again, in a new revision."""
    force: bool = False
    """Whether to score even if the golden set is outside its band."""
    max_error_share: Annotated[float, Range(0, 1)] = 0.01
    """Share of images with an error above which the exit code is 3."""

    def _check(self) -> None:
        check_name("run", self.run)
