"""Forecast of a fleet before anything is started: `mrkd train --plan` and `mrkd tune --plan`.

Seconds come from the last fleets of the workspace; without any, a few steps are timed here.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mrkd import storage
from mrkd.config import SearchConfig, TrainConfig
from mrkd.data.datasets import Sample
from mrkd.model import device
from mrkd.model.detector import infer
from mrkd.model.ensemble import Ensemble, model_of
from mrkd.model.feature_cache import TeacherFeatures
from mrkd.model.teacher import teacher_of
from mrkd.nights.cost_estimate import Forecast, UnitCost, noise
from mrkd.nights.reviews.training_samples import load_samples
from mrkd.run_summary import now
from mrkd.storage.thread_map import in_threads
from mrkd.training import fit as training
from mrkd.training.category import good_samples, inputs_of_all, standing, steps_of, work_of
from mrkd.training.search import spaces

_NUM_FLEETS = 3
"""Number of the newest fleets that a rate is taken from."""
_TIMED_STEPS = 3
_MOST_SHORT = 1000
"""Good images from which on a fleet is too long to be forecast for the choice of its executor."""


@dataclass(frozen=True)
class CategoryCost:
    """One category; seconds are None where nothing is to be done."""

    category: str
    num_images: int
    seconds: float | None

    def line(self) -> str:
        """Its line in the table."""
        takes = "-" if self.seconds is None else f"{self.seconds:.0f}"
        return f"{self.category:40} {self.num_images:8} {takes:>9}"


def forecast(config: TrainConfig, *, command: str = "train", times: int = 1) -> Forecast:
    """What a command with this config would do; reads listings and records, and no image.

    A category whose files were copied since counts as one to train: only reading them tells. Each
    category is trained so many `times`.

    Returns:
        The forecast, the longest category first.

    Raises:
        ConfigError, TeacherError: as `runs.train.run`.
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
        seconds = None if done else times * _seconds(configs[name], samples[name], rate)
        return CategoryCost(name, len(good), seconds)

    rows = sorted(in_threads(row, samples), key=lambda r: (-(r.seconds or 0), r.category))
    each = [row.seconds or 0.0 for row in rows]
    counts = {
        "categories": len(rows),
        "up_to_date": sum(row.seconds is None for row in rows),
        "images": sum(row.num_images for row in rows),
        "bytes": _num_bytes(config.data.root, samples),
        "longest_seconds": round(max(each, default=0.0)),
    }
    head = f"{'category':40} {'images':>8} {'seconds':>9}"
    return Forecast(
        command,
        head,
        rows,
        counts,
        sum(each),
        rate,
        config.price,
        started_at,
        passed_over=samples.reasons,
    )


def training_seconds(
    config: TrainConfig, samples: Mapping[str, Sequence[Sample]], *, times: int = 1
) -> float:
    """Seconds that a fleet takes on this machine; infinite for one that is plainly long.

    Args:
        config: config of the fleet.
        samples: samples by category.
        times: trainings of each category.

    Raises:
        MrkdError: as `forecast`.
    """
    if times * sum(len(good_samples(some)) for some in samples.values()) > _MOST_SHORT:
        return math.inf
    return forecast(config, times=times).elapsed_s


def forecast_search(config: SearchConfig) -> Forecast:
    """What `mrkd tune` would do if no trial were ended at a rung; arguments as `forecast`.

    Every trial counts with a teacher's pass of its own, though those of one machine share it.

    Raises:
        ConfigError: as `forecast`, or the space is not one of the config.
    """
    spaces.check(spaces.load(config.search.space), config)
    base = config.base().with_values({"fleet.force": True})
    return forecast(base, command="tune", times=_num_trainings(config))


def search_seconds(config: SearchConfig, samples: Mapping[str, Sequence[Sample]]) -> float:
    """`training_seconds` of all trainings of a search."""
    base = config.base().with_values({"fleet.force": True})
    return training_seconds(base, samples, times=_num_trainings(config))


def _num_trainings(config: SearchConfig) -> int:
    """Trainings of each category, if no trial ends at a rung."""
    options = config.search
    return options.trials + (options.refit_best + 1) * options.refit_seeds


def _seconds(config: TrainConfig, samples: Sequence[Sample], rate: UnitCost) -> float:
    stepped = _stepped_pixels(config, steps_of(config, samples))
    return rate.step_s * stepped + rate.image_s * work_of(config, samples)


def _stepped_pixels(config: TrainConfig, steps: int) -> float:
    return steps * config.train.batch_size * float(config.model.image_size) ** 2


def _num_bytes(root: str, samples: Mapping[str, Sequence[Sample]]) -> int:
    """Bytes of the files that hold training images; of a container all count."""
    sizes = {file.uri: file.num_bytes for file in storage.list_files(root)}
    used = {one.image_uri for of_category in samples.values() for one in good_samples(of_category)}
    files = {uri if uri in sizes else uri.rpartition("#")[0] for uri in used}
    return sum(sizes.get(uri, 0) for uri in files)


def _recorded(config: TrainConfig, *, with_steps: bool) -> UnitCost | None:
    """The rate of the newest fleets of the workspace; None where none has trained anything."""
    root = storage.join(config.workspace, "fleets")
    uris = [storage.join(root, name, "fleet.json") for name in storage.list_names(root)]
    fleets = [storage.read_json(uri) for uri in uris if storage.stat(uri)]
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
    return UnitCost(image_s / pixels, cpus, gpus, source, step_s / max(stepped, 1.0))


def _timed(config: TrainConfig) -> UnitCost:
    """The rate of a few steps on noise, on the device here."""
    model_config, size = config.model, config.model.image_size
    batch = config.train.batch_size
    teacher = teacher_of(model_config, seed=config.train.seed)
    model = model_of(model_config, teacher, seed=config.train.seed).eval()
    place = device.choose(config.train.device, "float32").device
    model.to(place)
    shown = noise(size, batch)
    features = TeacherFeatures(model.teacher, shown, budget_bytes=config.train.cache_bytes)
    began = time.perf_counter()
    features.ready()
    infer(model, torch.from_numpy(shown).to(place))
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
