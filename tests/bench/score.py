"""Speed of a night from S3 beside that of the bare model, and what its rows weigh.

    python -m tests.bench.score --out FOLDER [--images 1500] [--mtd FOLDER]

At 256 px, as JSON lines and as a table in `tests/bench/results/` under the machine's name. The S3
server runs on the same cores, so its own CPU seconds stand beside each speed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from mrkd import storage
from mrkd.config import DataConfig, PoolConfig, ScoreConfig, TrainConfig
from mrkd.data import datasets
from mrkd.data.images import DecodeLimits
from mrkd.data.preprocess import Preprocessor
from mrkd.model.artefact import save_load
from mrkd.model.inference import score_images
from mrkd.model.registry import promotions
from mrkd.training.category import train_category
from tests.support import night_runs as runs
from tests.support.archive_pictures import FULL, encode
from tests.support.night_pace import bytes_per_clean_row
from tests.support.night_proofs import Figures, Place, asked, figures_of, place

BACKBONES = {"resnet18": 0.9, "efficientnet_lite0": 0.8}
"""And the share of the bare model's speed that a night from S3 has to reach."""
_CATEGORY = "poly-full"
RESULTS = Path(__file__).parent / "results"


def make_archive(place: Place, count: int) -> str:
    """URI of an archive of single 256 px images, put unless it stands."""
    uri = storage.join(place.base, f"speed-{count}") + "/"
    if not storage.exists(uri):
        for number in range(count):
            picture = place.pictures.picture(_CATEGORY, number)
            storage.write(f"{uri}{_CATEGORY}/{number:06}.png", encode(picture))
    return uri


def make_model(place: Place, backbone: str) -> str:
    """URI of a workspace with a model of 256 px, trained for a few steps unless it stands."""
    workspace = storage.join(place.base, f"speed-{backbone}")
    if promotions.champion(workspace, _CATEGORY) is None:
        folder = place.folder / "good-speed"
        good = folder / _CATEGORY / "train" / "good"
        good.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(place.pictures.good(_CATEGORY, 60)):
            (good / f"{number:04}.png").write_bytes(encode(picture))
        config = TrainConfig.from_dict(
            {"workspace": workspace, "run": "speed", "data": {"root": str(folder)}}
        ).with_values(
            {
                "model.backbone": backbone,
                # No package has the ResNets' weights; their speed is that of any others.
                "model.weights": "random" if backbone.startswith("resnet") else "auto",
                "train.max_steps": 10,
                "train.precision": "float32",
                "fleet.gate_images": 8,
            }
        )
        samples = datasets.load(DataConfig(str(folder), categories=(_CATEGORY,)))[_CATEGORY]
        train_category(config, _CATEGORY, samples)
    return workspace


def bare(place: Place, workspace: str, count: int = 160) -> float:
    """Images a second of the model alone, on pixels in memory, with all cores."""
    champion = promotions.champion(workspace, _CATEGORY)
    assert champion is not None
    loaded = save_load.load(workspace, _CATEGORY, champion.version)
    decoder = Preprocessor(FULL, loaded.card.model.resize, DecodeLimits())
    decoded = [decoder(str(n), encode(place.pictures.picture(_CATEGORY, n))) for n in range(count)]
    torch.set_num_threads(os.cpu_count() or 1)
    options = {"batch_size": PoolConfig().batch_size, "map_size": 64}
    list(score_images(loaded.model, decoded[:32], **options))  # type: ignore[arg-type]
    began = time.perf_counter()
    list(score_images(loaded.model, decoded, **options))  # type: ignore[arg-type]
    return count / (time.perf_counter() - began)


def pipeline(place: Place, archive: str, workspace: str, **values: object) -> Figures:
    """A whole night from S3 to S3; its speed is that between its first and its last commit."""
    run = f"speed-{time.time_ns()}"
    raw = {"workspace": workspace, "run": run, "archive": {"uri": archive}}
    config = ScoreConfig.from_dict(raw).with_values({"rows.shard_rows": 64, **values})
    before = place.server.cpu_seconds()
    done = runs.start(config, place.folder / run, every_s=0.25)
    assert done.code == 0, done.log[-3000:]
    night_uri = storage.join(workspace, "nights", run)
    return {
        **figures_of(done),
        "server_cpu_s": place.server.cpu_seconds() - before,
        "bytes_per_row": bytes_per_clean_row(night_uri),
        **asked(night_uri),
    }


def measure(place: Place, count: int) -> list[Figures]:
    """Bare, night, bare for each backbone; then a night with `uint8` maps."""
    found = []
    archive = make_archive(place, count)
    for backbone, least in BACKBONES.items():
        workspace = make_model(place, backbone)
        first = bare(place, workspace)
        night = pipeline(place, archive, workspace)
        second = bare(place, workspace)
        speed = (first + second) / 2
        line = {"backbone": backbone, "bare_images_per_s": [first, second], **night}
        line |= {"ratio": night["images_per_s"] / speed, "at_least": least}
        found.append(line)
        print(json.dumps(line, default=float), flush=True)
    small = pipeline(place, archive, workspace, **{"rows.map": "uint8"})
    found.append({"backbone": f"{backbone}, uint8 maps", **small})
    print(json.dumps(found[-1], default=float), flush=True)
    return found


def machine() -> str:
    """Cores and processor, as a file's name and as words."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{os.cpu_count()} cores, {model}"


def table(found: list[Figures], count: int) -> str:
    """The figures as a page of Markdown."""
    lines = [
        f"# Nights of {count} images of 256 px, {datetime.now(UTC):%Y-%m}",
        "",
        f"`python -m tests.bench.score`, {machine()}, torch {torch.__version__}; archive and "
        "workspace on SeaweedFS on the same cores.",
        "",
        "| model | bare images/s | night images/s | ratio | to reach | server's CPU s | "
        "peak RSS MiB | bytes a row | requests |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        speeds = " and ".join(f"{speed:.1f}" for speed in one.get("bare_images_per_s", ()))
        ratio = f"{one['ratio']:.3f} | {one['at_least']}" if "ratio" in one else " | "
        lines.append(
            f"| {one['backbone']} | {speeds} | {one['images_per_s']:.1f} | {ratio} "
            f"| {one['server_cpu_s']:.1f} | {one['peak_rss_mib']:.0f} | {one['bytes_per_row']:.0f} "
            f"| {json.dumps(one.get('requests', {}))} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1500)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with place(options.out.absolute(), options.images) as here:
        text = table(measure(here, options.images), options.images)
    print(text)
    name = f"night_{os.cpu_count()}-cores_{datetime.now(UTC):%Y%m}.md"
    (RESULTS / name).write_text(text)


if __name__ == "__main__":
    main()
