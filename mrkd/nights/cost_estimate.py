"""Forecast of a night before anything is started: `mrkd score --plan`.

Seconds come from the workspace's last nights; without any, the largest category's model is timed
here on noise. `Forecast`, `UnitCost` and the noise serve trainings too.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mrkd import storage
from mrkd.config import EvalConfig, PriceConfig, ScoreConfig
from mrkd.errors import StorageError
from mrkd.model import device
from mrkd.model.artefact import save_load
from mrkd.model.detector import infer
from mrkd.nights import model_versions
from mrkd.nights.manifest import passed_over_line
from mrkd.nights.night import Night
from mrkd.nights.plan import Plan
from mrkd.nights.shards import Shard, most_pixels
from mrkd.run_summary import Summary, now, some_of
from mrkd.storage.thread_map import in_threads

log = logging.getLogger(__name__)

_NUM_NIGHTS = 3
_MOST_SHORT = 10_000
"""Images from which on a run is too long to be forecast for the choice of its executor."""
"""Number of the newest nights that a rate is taken from."""


@dataclass(frozen=True)
class UnitCost:
    """What the units of some work take.

    Args:
        image_s: seconds for an image, of the whole cluster; of a training, one worker's seconds per
            pixel of everything that an image costs once.
        cpus: CPUs that are held meanwhile.
        gpus: GPUs that are held meanwhile.
        source: words on how this is known.
        step_s: seconds per pixel of a training's step: images of a batch times their pixels.
    """

    image_s: float
    cpus: float
    gpus: float
    source: str
    step_s: float = 0.0


@dataclass(frozen=True)
class Forecast:
    """What a command would do.

    Args:
        command: its verb.
        head: heading of the table.
        rows: one for each category, with its `line` in the table.
        counts: counts of the command's last line, but for seconds of CPUs and GPUs.
        seconds: seconds of the cluster, or of all workers together.
        rate: rate that the seconds are made with; None where nothing would be done.
        price: price of an hour.
        started_at: time when the forecast was made, UTC, ISO 8601.
        warning: one line more for the reader; empty: none.
        passed_over: lines on what of the data is not used.
    """

    command: str
    head: str
    rows: Sequence[Any]
    counts: Mapping[str, int]
    seconds: float
    rate: UnitCost | None
    price: PriceConfig
    started_at: str
    warning: str = ""
    passed_over: Sequence[str] = ()

    @property
    def elapsed_s(self) -> float:
        """Seconds from start to end on this machine, whose CPUs share the work."""
        longest = max((getattr(row, "seconds", None) or 0.0 for row in self.rows), default=0.0)
        return max(longest, self.seconds / (os.cpu_count() or 1))

    @property
    def cost(self) -> float:
        """Cost of the CPUs and GPUs that are held, in the price's currency."""
        if self.rate is None:
            return 0.0
        hour = self.rate.cpus * self.price.cpu_hour + self.rate.gpus * self.price.gpu_hour
        return self.seconds / 3600 * hour

    def lines(self) -> Iterator[str]:
        """The table in text."""
        yield self.head
        yield from (row.line() for row in self.rows)

    def summary(self, run: str) -> Summary:
        """The command's last line."""
        counts, reasons = dict(self.counts), []
        if self.rate:
            counts["cpu_seconds"] = round(self.seconds * self.rate.cpus)
            counts["gpu_seconds"] = round(self.seconds * self.rate.gpus)
            reasons.append(f"seconds by {self.rate.source}")
            if self.cost:
                reasons.append(f"about {self.cost:.2f} {self.price.currency}")
        reasons += [self.warning] if self.warning else []
        reasons += some_of(self.passed_over)
        return Summary(self.command, run, 0, "planned", counts, {}, self.started_at, now(), reasons)


def noise(size: int, count: int) -> NDArray[np.uint8]:
    """Images to time a model on, uint8 `[count, size, size, 3]`."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


@dataclass(frozen=True)
class NightCost:
    """One category of the plan; without a model its images become error rows."""

    category: str
    num_images: int
    num_bytes: int
    shards: int
    model_version: str | None

    def line(self) -> str:
        """Its line in the table."""
        model = self.model_version or "none: its images become no_model rows"
        return f"{self.category:40} {self.num_images:9} {self.shards:7}  {model}"


def forecast_night(config: ScoreConfig) -> Forecast:
    """What `mrkd score` would do with this config: lists the archive, and reads no image.

    `shard_bytes_in_memory` is the most that one shard's pixels take; as many shards are in flight
    at once as there are readers and scorers. What an earlier start left unfinished is not counted:
    it is planned already.

    Raises:
        ConfigError: as `nights.Night.draft`.
        StorageError: archive or workspace cannot be read.
    """
    started_at = now()
    versions = model_versions.read(config.models, config.workspace)
    pin = partial(model_versions.pin, config.workspace, versions=versions)
    plan = Night(config.workspace, config.run).draft(config, pin)
    shards = plan.shards() if plan else []
    rows = _rows(plan, shards) if plan else []
    scored = [row for row in rows if row.model_version]
    rate = None
    if scored:
        most = max(scored, key=lambda row: row.num_images)
        assert most.model_version is not None
        rate = _recorded(config) or _timed(config, most.category, most.model_version)
    seconds = rate.image_s * sum(row.num_images for row in scored) if rate else 0.0
    counts = {
        "categories": len(rows),
        "images": sum(row.num_images for row in rows),
        "bytes": sum(row.num_bytes for row in rows),
        "shards": sum(row.shards for row in rows),
        "no_model": sum(row.num_images for row in rows if not row.model_version),
        "shard_bytes_in_memory": most_pixels(shards, config.rows),
    }
    if rate:
        counts["seconds"] = round(seconds)
    deadline, warning = config.deadline.span, ""
    if deadline and seconds > deadline.total_seconds():
        over = timedelta(seconds=round(seconds)) - deadline
        warning = f"it would be done {over} after its deadline of {deadline}"
    if plan and (passed := passed_over_line(plan.passed_over)):
        warning = "; ".join(filter(None, (passed, warning)))
    head = f"{'category':40} {'images':>9} {'shards':>7}  model"
    return Forecast("score", head, rows, counts, seconds, rate, config.price, started_at, warning)


def scoring_seconds(config: ScoreConfig | EvalConfig, num_images: Mapping[str, int]) -> float:
    """Seconds that images take in this process; infinite for so many that it is plainly long.

    Raises:
        ArtefactError: the model of the largest category is damaged.
        StorageError: the workspace cannot be read.
    """
    total = sum(num_images.values())
    if not 0 < total <= _MOST_SHORT:
        return math.inf if total else 0.0
    largest = max(num_images, key=lambda name: num_images[name])
    rate = _recorded(config, executor="in_process")
    if rate is None:
        pin = model_versions.pin(config.workspace, largest)
        rate = _timed(config, largest, pin.version) if pin else None
    return rate.image_s * total if rate else 0.0


def _rows(plan: Plan, shards: Sequence[Shard]) -> list[NightCost]:
    num_shards = Counter(shard.category for shard in shards)
    table = plan.rows.group_by("category").aggregate(
        [("image_uri", "count"), ("image_bytes", "sum")]
    )
    return [
        NightCost(
            category=(name := row["category"]),
            num_images=row["image_uri_count"],
            num_bytes=row["image_bytes_sum"] or 0,
            shards=num_shards[name],
            model_version=pin.version if (pin := plan.pins[name]) else None,
        )
        for row in table.sort_by("category").to_pylist()
    ]


def _recorded(config: ScoreConfig | EvalConfig, *, executor: str = "") -> UnitCost | None:
    """The rate of the newest nights that scored anything; None where none did."""
    root = storage.join(config.workspace, "nights")
    uris = [storage.join(root, name, "night.json") for name in storage.list_names(root)]
    starts = [start for some in in_threads(_starts, uris) for start in some]
    starts = [start for start in starts if executor in ("", start["executor"])]
    newest = sorted(starts, key=lambda start: str(start["started_at"]))[-_NUM_NIGHTS:]
    if not newest:
        return None
    images = sum(start["images"] for start in newest)
    seconds = sum(start["images"] / start["images_per_s"] for start in newest)
    cpus, gpus = newest[-1]["cpus"], newest[-1]["gpus"]
    source = f"the last {len(newest)} starts of the workspace's nights"
    return UnitCost(seconds / images, cpus, gpus, source)


def _starts(uri: str) -> list[Mapping[str, Any]]:
    """The starts in a night's record that scored anything; none where the record is missing."""
    try:
        return [
            {name: start[name] for name in ("started_at", "images", "images_per_s")}
            | {name: start.get(name, 0.0) for name in ("cpus", "gpus")}
            | {"executor": start.get("executor", "ray")}
            for start in storage.read_json(uri)["starts"]
            if start["images_per_s"]
        ]
    except StorageError as error:
        if error.kind != "missing":
            raise
    except (AttributeError, KeyError, TypeError) as error:
        log.warning("night_left_out uri=%s reason=%r", uri, error)
    return []


def _timed(config: ScoreConfig | EvalConfig, category: str, version: str) -> UnitCost:
    """The rate of one batch of noise by a model, on the device here."""
    model = save_load.load(config.workspace, category, version).model
    place, batch = device.choose(config.pool.device, "float32").device, config.pool.batch_size
    model.to(place)
    pixels = torch.from_numpy(noise(model.config.image_size, batch)).to(place)
    infer(model, pixels).image_score.tolist()
    began = time.perf_counter()
    infer(model, pixels).image_score.tolist()  # on a GPU the values are waited for
    what = "counted as one tile an image" if model.config.tiles else "without reading"
    return UnitCost(
        image_s=(time.perf_counter() - began) / batch,
        cpus=float(os.cpu_count() or 1),
        gpus=1.0 if place.type == "cuda" else 0.0,
        source=f"a batch of {category} timed here, on {place}, {what}",
    )
