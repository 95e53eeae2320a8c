"""A fleet of 14 on this machine: 13 real categories and a broken one, trained and started again.

    python -m tests.bench.fleet --mtd FOLDER --cifar10 FOLDER --out FOLDER [--table FILE]

Solar cells (mono, poly), magnetic tiles, CIFAR-10's ten classes with 500 images each at 64 px, and
a folder of text files, in MVTec AD layout. Says what a category costs beyond its own training.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from mrkd.config import DataConfig, TrainConfig
from mrkd.data import datasets
from mrkd.data.datasets import Sample
from mrkd.run_summary import Summary
from mrkd.runs import train
from mrkd.runs.on_ray import cluster
from tests.bench.real_sets import elpv_root
from tests.support.folders import put, put_broken
from tests.support.rays import RAY

CIFAR_TRAIN, CIFAR_TEST = 500, 100


def make_data(root: Path, mtd: str, cifar10: str) -> None:
    """The data set's folder, unless it is there."""
    if root.exists():
        return
    half_done = root.with_name(f"{root.name}.tmp")
    shutil.rmtree(half_done, ignore_errors=True)
    cells = datasets.load(DataConfig(elpv_root(), "elpv"))
    for name, samples in cells.items():
        put(half_done / name, [one for one in samples if one.headline])
    pictures = datasets.load(DataConfig(cifar10, "cifar10"))
    for name, samples in pictures.items():
        put(half_done / f"cifar-{name}", list(some(samples)))
    shutil.copytree(Path(mtd) / "magnetic_tile", half_done / "magnetic_tile")
    shutil.copy(Path(mtd) / "split.csv", half_done / "magnetic_tile" / "split.csv")
    put_broken(half_done / "broken")
    half_done.rename(root)


def some(samples: Sequence[Sample]) -> Iterator[Sample]:
    """Few of a class's pictures, and as many of the others'."""
    yield from islice((s for s in samples if s.split == "train"), CIFAR_TRAIN)
    for label in (0, 1):
        found = (s for s in samples if s.split == "test" and s.gt_label == label)
        yield from islice(found, CIFAR_TEST)


def start(config: TrainConfig) -> tuple[Summary, float]:
    """The fleet's verdict, and its seconds with Ray up."""
    began = time.perf_counter()
    summary = train.run(config, RAY)
    return summary, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mtd", required=True)
    parser.add_argument("--cifar10", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    make_data(options.out / "data", options.mtd, options.cifar10)
    config = TrainConfig.from_dict(
        {
            "workspace": str(options.out / "workspace"),
            "run": "fleet-14",
            "data": {"root": str(options.out / "data")},
            "category": {"cifar-*": {"model": {"image_size": 64}}},
        }
    )
    began = time.perf_counter()
    with cluster.connect():
        ray_s = time.perf_counter() - began
        first, first_s = start(config)
        lines = list(costs(options.out / "workspace" / "fleets" / "fleet-14", first, first_s))
        second, second_s = start(config)
    text = "\n".join(
        [
            f"{os.cpu_count()} CPUs; Ray up in {ray_s:.1f} s, in no figure below",
            "",
            *lines,
            "",
            f"second start: {second_s:.1f} s, {json.dumps(dict(second.counts))}",
        ]
    )
    print(text)
    if options.table:
        options.table.write_text(text + "\n")


def costs(fleet: Path, first: Summary, wall_s: float) -> Iterator[str]:
    """What the fleet took, beside what its trainings say that they took."""
    records = [json.loads(path.read_text()) for path in sorted((fleet / "categories").iterdir())]
    trained = [one for one in records if one["status"] == "trained"]
    own_s = sum(sum(one["seconds"].values()) for one in trained)
    at_once = (os.cpu_count() or 1) / trained[0]["cpus"]
    yield f"first start: {wall_s:.1f} s, exit {first.exit_code}, {json.dumps(dict(first.counts))}"
    yield (
        f"trainings by themselves: {own_s:.1f} s, {at_once:g} at once; beyond them, for each of "
        f"{len(trained)}: {(wall_s * at_once - own_s) / len(trained):.1f} s"
    )
    yield ""
    yield "| category | images | size | image AUROC | by | images/s | seconds | of it fit | gate |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for one in records:
        if "version" not in one:
            yield f"| {one['category']} | {one['error']} | | | | | | | |"
            continue
        auroc, seconds = one["gate"]["image_auroc"], one["seconds"]
        yield (
            f"| {one['category']} | {sum(one['num_images'].values())} | {one['image_size']} | "
            f"{auroc['value']:.3f} [{auroc['low']:.3f}, {auroc['high']:.3f}] | {one['gate']['by']} "
            f"| {one['images_per_s'] or 0:.0f} | {sum(seconds.values()):.1f} "
            f"| {seconds.get('fit', 0):.1f} | {seconds.get('gate', 0):.1f} |"
        )


if __name__ == "__main__":
    main()
