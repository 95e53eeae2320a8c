"""What a fleet would do and take, before anything is started: `mrkd train --plan`.

Seconds come from the last fleets of the workspace; where there is none, a few steps are timed here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mrkd import storage
from mrkd.config import PriceConfig, SearchConfig, TrainConfig
from mrkd.data.datasets import Sample
from mrkd.model import device
from mrkd.model.detector import infer
from mrkd.model.ensemble import Ensemble, model_of
from mrkd.model.feature_cache import TeacherFeatures
from mrkd.model.teacher import teacher_of
from mrkd.nights.reviews.training_samples import load_samples
from mrkd.run_summary import Summary, now
from mrkd.storage.thread_map import in_threads
from mrkd.training import fit as training
from mrkd.training.category import good_samples, inputs_of_all, standing, steps_of, work_of

_NUM_FLEETS = 3
"""Of the newest that a rate is taken from."""
_TIMED_STEPS = 3


@dataclass(frozen=True)
class UnitCost:
    """What one worker takes for a unit of work.

    Args:
        step_s: seconds per pixel of a training step: images of a batch times their pixels.
        image_s: seconds per pixel of everything that an image costs once.
        cpus: that a worker holds.
        gpus: that a worker holds.
        source: how this is known.
    """

    step_s: float
    image_s: float
    cpus: float
    gpus: float
    source: str


@dataclass(frozen=True)
class CategoryCost:
    """One category; seconds are None where nothing is to be done."""

    category: str
    num_images: int
    seconds: float | None


@dataclass(frozen=True)
class Forecast:
    """What a fleet would do.

    Args:
        rows: one for each category, the longest first.
        num_bytes: of the training images.
        rate: that the seconds are made with.
        price: of an hour.
        started_at: when it was made.
        command: that would do it.
    """

    rows: Sequence[CategoryCost]
    num_bytes: int
    rate: UnitCost
    price: PriceConfig
    started_at: str
    command: str = "train"

    @property
    def seconds(self) -> float:
        """Of all workers together."""
        return sum(row.seconds or 0.0 for row in self.rows)

    @property
    def cost(self) -> float:
        """Of all workers together, in the price's currency."""
        hour = self.rate.cpus * self.price.cpu_hour + self.rate.gpus * self.price.gpu_hour
        return self.seconds / 3600 * hour

    def lines(self) -> Iterator[str]:
        """A table for people."""
        yield f"{'category':40} {'images':>8} {'seconds':>9}"
        for row in self.rows:
            takes = "-" if row.seconds is None else f"{row.seconds:.0f}"
            yield f"{row.category:40} {row.num_images:8} {takes:>9}"

    def summary(self, run: str) -> Summary:
        """The command's last line."""
        longest = max((row.seconds or 0.0 for row in self.rows), default=0.0)
        counts = {
            "categories": len(self.rows),
            "up_to_date": sum(row.seconds is None for row in self.rows),
            "images": sum(row.num_images for row in self.rows),
            "bytes": self.num_bytes,
            "cpu_seconds": round(self.seconds * self.rate.cpus),
            "gpu_seconds": round(self.seconds * self.rate.gpus),
            "longest_seconds": round(longest),
        }
        reasons = [f"seconds by {self.rate.source}"]
        if self.price.cpu_hour or self.price.gpu_hour:
            reasons.append(f"about {self.cost:.2f} {self.price.currency}")
        return Summary(self.command, run, 0, "planned", counts, {}, self.started_at, now(), reasons)


def forecast(config: TrainConfig) -> Forecast:
    """What `mrkd train` would do with this config; reads listings and records, and no image.

    A category whose files were copied since counts as one to train: only reading them tells.

    Raises:
        ConfigError, TeacherError: as `on_ray.train.run`.
        StorageError: data or workspace cannot be read.
    """
    started_at, samples = now(), load_samples(config)
    configs = config.for_categories(list(samples))
    inputs = inputs_of_all(configs, samples)
    steps = any(steps_of(configs[name], samples[name]) for name in samples)
    rate = _recorded(config, with_steps=steps) or _timed(config)

    def row(name: str) -> CategoryCost:
        done = not config.fleet.force and standing(config.workspace, name, inputs[name])
        good = good_samples(samples[name])
        seconds = None if done else _seconds(configs[name], samples[name], rate)
        return CategoryCost(name, len(good), seconds)

    rows = sorted(in_threads(row, samples), key=lambda r: (-(r.seconds or 0), r.category))
    num_bytes = _num_bytes(config.data.root, samples)
    return Forecast(rows, num_bytes, rate, config.price, started_at)


def forecast_search(config: SearchConfig) -> Forecast:
    """What `mrkd tune` would do if no trial were ended at a rung; arguments as `forecast`.

    Every trial counts with a teacher's pass of its own, though those of one machine share it.
    """
    found = forecast(config.base().with_values({"fleet.force": True}))
    options = config.search
    number = options.trials + (options.refit_best + 1) * options.refit_seeds
    rows = [replace(row, seconds=number * (row.seconds or 0.0)) for row in found.rows]
    return replace(found, rows=rows, command="tune")


def _seconds(config: TrainConfig, samples: Sequence[Sample], rate: UnitCost) -> float:
    stepped = _stepped_pixels(config, steps_of(config, samples))
    return rate.step_s * stepped + rate.image_s * work_of(config, samples)


def _stepped_pixels(config: TrainConfig, steps: int) -> float:
    return steps * config.train.batch_size * float(config.model.image_size) ** 2


def _num_bytes(root: str, samples: Mapping[str, Sequence[Sample]]) -> int:
    """Of the files that hold training images; a member of a container counts with the whole."""
    sizes = {file.uri: file.num_bytes for file in storage.list_files(root)}
    used = {one.image_uri for of_category in samples.values() for one in good_samples(of_category)}
    files = {uri if uri in sizes else uri.rpartition("#")[0] for uri in used}
    return sum(sizes.get(uri, 0) for uri in files)


def _recorded(config: TrainConfig, *, with_steps: bool) -> UnitCost | None:
    """From what the newest fleets of the workspace took; None where none has trained anything."""
    root = storage.join(config.workspace, "fleets")
    fleets = []
    for name in storage.list_names(root):
        uri = storage.join(root, name, "fleet.json")
        if storage.stat(uri):
            fleets.append(storage.read_json(uri))
    fleets.sort(key=lambda fleet: str(fleet["started_at"]), reverse=True)
    stepped, step_s, pixels, image_s, asks = 0.0, 0.0, 0.0, 0.0, []
    for fleet in fleets[:_NUM_FLEETS]:
        past = TrainConfig.from_dict(fleet["config"])
        folder = storage.join(root, past.run, "categories")
        for file in storage.list_files(folder, suffixes=(".json",)):
            record = storage.read_json(file.uri)
            if record["status"] != "trained" or past.model.backbone != config.model.backbone:
                continue
            one = past.for_category(record["category"])
            seconds = record["seconds"]
            stepped += _stepped_pixels(one, record["steps"])
            fit_s = seconds["fit"] if record["steps"] else 0.0
            step_s += fit_s
            pixels += sum(record["num_images"].values()) * float(one.model.image_size) ** 2
            image_s += sum(seconds.values()) - fit_s
            asks.append((record["cpus"], record["gpus"]))
    if not asks or (with_steps and not stepped):
        return None
    cpus, gpus = asks[0]
    source = f"{len(asks)} trainings of the workspace's last fleets"
    return UnitCost(step_s / max(stepped, 1.0), image_s / pixels, cpus, gpus, source)


def _timed(config: TrainConfig) -> UnitCost:
    """From a few steps on noise, on the device that is here."""
    model_config, size = config.model, config.model.image_size
    batch = config.train.batch_size
    teacher = teacher_of(model_config, seed=config.train.seed)
    model = model_of(model_config, teacher, seed=config.train.seed).eval()
    place = device.choose(config.train.device, "float32").device
    model.to(place)
    noise = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    features = TeacherFeatures(model.teacher, noise, budget_bytes=config.train.cache_bytes)
    began = time.perf_counter()
    features.ready()
    infer(model, torch.from_numpy(noise).to(place))
    seen_s = (time.perf_counter() - began) / batch
    student, steps, step_s = model.student if isinstance(model, Ensemble) else model, 0, 0.0
    if student is not None:
        values = {"train.max_steps": _TIMED_STEPS, "train.precision": "float32"}
        fit, ids = config.with_values(values).train, [str(n) for n in range(batch)]
        fitted = training.fit(student, features, features, fit, sample_ids=ids)
        steps, step_s = fitted.steps, 1 / fitted.images_per_s
    pixels = float(size) ** 2
    on_gpu = place.type == "cuda"
    return UnitCost(
        step_s=step_s / pixels,
        image_s=seen_s / pixels,
        cpus=config.fleet.cpus_per_worker or float(os.cpu_count() or 1),
        gpus=(config.fleet.gpus_per_worker or 1.0) if on_gpu else 0.0,
        source=f"{f'{steps} steps' if steps else 'a few images'} timed here, on {place}",
    )
