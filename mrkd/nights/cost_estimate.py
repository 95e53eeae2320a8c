"""What a night would do and take, before anything is started: `mrkd score --plan`.

Seconds come from the workspace's last nights; where there is none, the largest category's model is
timed here on noise.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch

from mrkd import storage
from mrkd.config import PriceConfig, ScoreConfig
from mrkd.errors import StorageError
from mrkd.model import device
from mrkd.model.artefact import save_load
from mrkd.model.detector import infer
from mrkd.nights import model_versions
from mrkd.nights.night import Night
from mrkd.nights.plan import Plan
from mrkd.nights.shards import Pin, Shard, most_pixels
from mrkd.run_summary import Summary, now
from mrkd.storage.thread_map import in_threads

log = logging.getLogger(__name__)

_NUM_NIGHTS = 3
"""Of the newest that a rate is taken from."""


@dataclass(frozen=True)
class ScoringRate:
    """What a night takes for an image.

    Args:
        image_s: seconds of the whole cluster.
        cpus: that are held meanwhile.
        gpus: that are held meanwhile.
        source: how this is known.
    """

    image_s: float
    cpus: float
    gpus: float
    source: str


@dataclass(frozen=True)
class NightCost:
    """One category of the plan; without a model its images become error rows."""

    category: str
    num_images: int
    num_bytes: int
    shards: int
    model_version: str | None


@dataclass(frozen=True)
class NightForecast:
    """What a start of a night would score.

    Args:
        rows: one for each category that has something new.
        shard_bytes: the most that one shard's pixels take in memory; as many are in flight at once
            as there are readers and scorers.
        rate: that the seconds are made with; None where nothing would be scored.
        price: of an hour.
        started_at: when it was made.
        deadline: that the config sets, if any.
    """

    rows: Sequence[NightCost]
    shard_bytes: int
    rate: ScoringRate | None
    price: PriceConfig
    started_at: str
    deadline: timedelta | None = None

    @property
    def num_scored(self) -> int:
        """Images that have a model."""
        return sum(row.num_images for row in self.rows if row.model_version)

    def lines(self) -> Iterator[str]:
        """A table for people."""
        yield f"{'category':40} {'images':>9} {'shards':>7}  model"
        for row in self.rows:
            model = row.model_version or "none: its images become no_model rows"
            yield f"{row.category:40} {row.num_images:9} {row.shards:7}  {model}"

    def summary(self, run: str) -> Summary:
        """The command's last line."""
        counts = {
            "categories": len(self.rows),
            "images": sum(row.num_images for row in self.rows),
            "bytes": sum(row.num_bytes for row in self.rows),
            "shards": sum(row.shards for row in self.rows),
            "no_model": sum(row.num_images for row in self.rows if not row.model_version),
            "shard_bytes_in_memory": self.shard_bytes,
        }
        reasons = []
        if self.rate:
            seconds = self.rate.image_s * self.num_scored
            counts["seconds"] = round(seconds)
            counts["cpu_seconds"] = round(seconds * self.rate.cpus)
            counts["gpu_seconds"] = round(seconds * self.rate.gpus)
            reasons.append(f"seconds by {self.rate.source}")
            hour = self.rate.cpus * self.price.cpu_hour + self.rate.gpus * self.price.gpu_hour
            if hour:
                reasons.append(f"about {seconds / 3600 * hour:.2f} {self.price.currency}")
            if self.deadline and seconds > self.deadline.total_seconds():
                over = timedelta(seconds=round(seconds)) - self.deadline
                reasons.append(f"it would be done {over} after its deadline of {self.deadline}")
        return Summary("score", run, 0, "planned", counts, {}, self.started_at, now(), reasons)


def forecast_night(config: ScoreConfig) -> NightForecast:
    """What `mrkd score` would do with this config: lists the archive, and reads no image.

    What an earlier start left unfinished is not counted: it is planned already.

    Raises:
        ConfigError: as `nights.Night.draft`.
        StorageError: archive or workspace cannot be read.
    """
    started_at = now()
    versions = model_versions.read(config.models, config.workspace)

    def pin(category: str) -> Pin | None:
        return model_versions.pin(config.workspace, category, versions)

    plan = Night(config.workspace, config.run).draft(config, pin)
    shards = plan.shards() if plan else []
    rows = _rows(plan, shards) if plan else []
    scored = [row for row in rows if row.model_version]
    shard_bytes = most_pixels(shards, config.rows)
    rate = (_recorded(config) or _timed(config, scored)) if scored else None
    deadline = config.deadline.span
    return NightForecast(rows, shard_bytes, rate, config.price, started_at, deadline)


def _rows(plan: Plan, shards: Sequence[Shard]) -> list[NightCost]:
    num_shards = Counter(shard.category for shard in shards)
    table = plan.rows.group_by("category").aggregate(
        [("image_uri", "count"), ("image_bytes", "sum")]
    )
    rows = []
    for row in table.sort_by("category").to_pylist():
        name, pin = row["category"], plan.pins[row["category"]]
        size = row["image_bytes_sum"] or 0
        version = pin.version if pin else None
        rows.append(NightCost(name, row["image_uri_count"], size, num_shards[name], version))
    return rows


def _recorded(config: ScoreConfig) -> ScoringRate | None:
    """From the newest nights of the workspace that scored anything; None where there is none."""
    root = storage.join(config.workspace, "nights")
    uris = [storage.join(root, name, "night.json") for name in storage.list_names(root)]
    starts = [start for some in in_threads(_starts, uris) for start in some]
    newest = sorted(starts, key=lambda start: str(start["started_at"]))[-_NUM_NIGHTS:]
    if not newest:
        return None
    images = sum(start["images"] for start in newest)
    seconds = sum(start["images"] / start["images_per_s"] for start in newest)
    cpus, gpus = newest[-1]["cpus"], newest[-1]["gpus"]
    source = f"the last {len(newest)} starts of the workspace's nights"
    return ScoringRate(seconds / images, cpus, gpus, source)


def _starts(uri: str) -> list[Mapping[str, Any]]:
    """The starts in a night's record that scored anything; none where there is no such record."""
    try:
        return [
            {name: start[name] for name in ("started_at", "images", "images_per_s")}
            | {name: start.get(name, 0.0) for name in ("cpus", "gpus")}
            for start in storage.read_json(uri)["starts"]
            if start["images_per_s"]
        ]
    except StorageError as error:
        if error.kind != "missing":
            raise
    except (AttributeError, KeyError, TypeError) as error:
        log.warning("night_left_out uri=%s reason=%r", uri, error)
    return []


def _timed(config: ScoreConfig, rows: Sequence[NightCost]) -> ScoringRate:
    """From one batch of noise by the model with the most images, on the device that is here."""
    most = max(rows, key=lambda row: row.num_images)
    assert most.model_version is not None
    model = save_load.load(config.workspace, most.category, most.model_version).model
    place, batch = device.choose(config.pool.device, "float32").device, config.pool.batch_size
    model.to(place)
    size = model.config.image_size
    noise = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    pixels = torch.from_numpy(noise).to(place)
    infer(model, pixels)
    began = time.perf_counter()
    infer(model, pixels)
    what = "counted as one tile an image" if model.config.tiles else "without reading"
    return ScoringRate(
        image_s=(time.perf_counter() - began) / batch,
        cpus=float(os.cpu_count() or 1),
        gpus=1.0 if place.type == "cuda" else 0.0,
        source=f"a batch of {most.category} timed here, on {place}, {what}",
    )
