"""A fleet: one training for each category, on what the cluster has.

    fleets/<run>/config.toml                        the resolved config
                 categories/<c>.json                how the category ended, written when it does
                 tracebacks/<c>-<attempt>.txt       of an attempt that failed
                 summary.json                       the verdict

A category is a Ray task in which Ray Train's local mode runs the loop; README.md says why.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import ray.train
import torch
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from mrkd import datasets, storage
from mrkd.backbones import load_teacher
from mrkd.category import CategoryResult, train_category
from mrkd.config import TrainConfig
from mrkd.datasets import Sample
from mrkd.model import build
from mrkd.on_ray import session
from mrkd.on_ray.session import Ask
from mrkd.on_ray.tasks import Attempt, run_each
from mrkd.on_ray.verdict import Verdict
from mrkd.summary import Summary

log = logging.getLogger(__name__)


def run(config: TrainConfig) -> Summary:
    """Trains every category that is not up to date; one that fails keeps no other from it.

    Raises:
        ConfigError: the data, the network or what it asks of the cluster cannot be had; nothing
            was started.
        TeacherError: there are no such teacher weights.
        StorageError: the workspace cannot be read or written.
    """
    samples = datasets.load(config.data)
    _check_network(config)
    folder = storage.join(config.workspace, "fleets", config.run)
    failed: dict[str, str] = {}
    counts = {"categories": len(samples), "trained": 0, "up_to_date": 0, "failed": 0}
    with Verdict("train", config.run, folder) as verdict, session.connect():
        ask = session.worker_ask(
            session.nodes(),
            cpus=config.fleet.cpus_per_worker,
            gpus=config.fleet.gpus_per_worker,
            device=config.train.device,
            num_workers=len(samples),
        )
        storage.write(storage.join(folder, "config.toml"), config.to_toml().encode())
        arguments = {name: (config, name, samples[name], ask) for name in _largest_first(samples)}
        for attempt in run_each(_train, arguments, ask, max_failures=config.fleet.max_failures):
            if attempt.error:
                _store_traceback(folder, attempt)
            if attempt.last:
                record = _record(attempt)
                _store(folder, attempt.category, record)
                counts[record["status"]] += 1
                if attempt.error:
                    failed[attempt.category] = attempt.error
        too_many = len(failed) > config.fleet.max_failed_share * len(samples)
        return verdict.end(
            3 if too_many else 0,
            counts=counts,
            uris={
                "models": storage.join(config.workspace, "models"),
                "categories": storage.join(folder, "categories"),
            },
            reasons=[f"category {name}: {error}" for name, error in sorted(failed.items())],
        )


def _check_network(config: TrainConfig) -> None:
    """Refuses here what would fail in every category alike: no weights, no such level."""
    teacher = load_teacher(
        config.model.backbone,
        taps=config.model.taps,
        weights=config.model.weights,
        sha256=config.model.weights_sha256,
        seed=config.train.seed,
    )
    with torch.device("meta"):
        build(config.model, teacher, seed=config.train.seed)


def _largest_first(samples: Mapping[str, Sequence[Sample]]) -> list[str]:
    """So that no long one is left alone at the end."""
    return sorted(samples, key=lambda name: (-len(samples[name]), name))


def _train(
    config: TrainConfig, category: str, samples: Sequence[Sample], ask: Ask
) -> CategoryResult:
    """One category, in a worker of the cluster."""
    session.enter_worker(ask)

    def report(row: Mapping[str, Any]) -> None:
        figures = " ".join(f"{name}={value:.6g}" for name, value in row.items())
        log.info("epoch_end category=%s %s", category, figures)
        ray.train.report(dict(row))

    # Local mode calls it in this very process, so that its result needs no way back.
    results: list[CategoryResult] = []

    def loop() -> None:
        results.append(train_category(config, category, samples, report=report))

    TorchTrainer(loop, scaling_config=ScalingConfig(num_workers=0, use_gpu=ask.gpus > 0)).fit()
    return results[0]


def _record(attempt: Attempt) -> dict[str, Any]:
    """What is stored of a category that ended."""
    common = {"category": attempt.category, "attempts": attempt.number}
    if attempt.error:
        return {**common, "status": "failed", "error": attempt.error}
    return {**common, **asdict(attempt.result)}


def _store(folder: str, category: str, record: Mapping[str, Any]) -> None:
    storage.write_json(storage.join(folder, "categories", f"{category}.json"), record)


def _store_traceback(folder: str, attempt: Attempt) -> None:
    name = f"{attempt.category}-{attempt.number}.txt"
    storage.write(storage.join(folder, "tracebacks", name), attempt.traceback.encode())
