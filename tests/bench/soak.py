"""Nights again and again on one cluster: does any process grow?

    python -m tests.bench.soak --out FOLDER [--minutes 60] [--images 5000]

A head that asks for a token, SeaweedFS beside it, and one driver that scores night after night over
the same archive on S3. After each night, at rest, the memory of every process (proportional set
size: what Ray's processes share is counted once) and its open files are summed by what it is. The
slope over nights is least squares with its 95 % interval by Student's t; the first nights, in which
caches fill, are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from mrkd import datasets, storage
from mrkd.category import train_category
from mrkd.config import ScoreConfig
from mrkd.on_ray import score
from tests.bench.score import RESULTS, machine
from tests.support.clusters import head
from tests.support.models import small_config
from tests.support.parts import make_parts
from tests.support.processes import descendants
from tests.support.s3_server import S3Server

_WARM_UP = 3
"""Nights that are left out."""
_REST_S = 5.0
_KINDS = {
    "gcs_server": "GCS",
    "raylet/raylet": "raylet",
    "dashboard/dashboard.py": "dashboard",
    "ray-dashboard": "dashboard",
    "DashboardAgent": "dashboard agent",
    "RuntimeEnvAgent": "runtime env agent",
    "ray_client": "client server",
    "log_monitor": "log monitor",
    "monitor.py": "autoscaler",
    "_StatsActor": "Ray Data: statistics",
    "_AutoscalingCoordinatorActor": "Ray Data: autoscaling",
    "ActorLocationTracker": "Ray Data: actors' places",
    "ray::": "workers",
}
"""What a process's title holds, the first that fits."""
Sample = dict[str, tuple[float, float, int]]
"""By kind of process: MiB, open files, processes."""


def drive(workspace: str, archive: str, minutes: float) -> None:
    """The driver: nights until the time is over, a line on stdout after each."""
    until, number = time.monotonic() + 60 * minutes, 0
    while time.monotonic() < until:
        number += 1
        raw = {"workspace": workspace, "run": f"night-{number:04}", "archive": {"uri": archive}}
        began = time.monotonic()
        summary = score.run(ScoreConfig.from_dict(raw))
        facts = {"exit_code": summary.exit_code, "images": summary.counts["images"]}
        print(json.dumps(facts | {"seconds": time.monotonic() - began}), flush=True)
        sys.stdin.readline()  # it has been looked at


def make(server: S3Server, folder: Path, images: int) -> tuple[str, str]:
    """URIs of a workspace with two models, and of an archive of different pictures."""
    bucket = server.new_bucket()
    root = make_parts(folder / "parts", categories=2, train=24, test_good=images // 2)
    workspace, archive = f"{bucket}/mrkd", f"{bucket}/archive/"
    config = small_config(str(root), workspace)
    for category, samples in datasets.load(config.data).items():
        train_category(config, category, samples)

    def put(path: Path) -> None:
        name = f"{path.relative_to(root).parts[0]}/{path.name}"
        storage.write(archive + name, path.read_bytes())

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, sorted(root.glob("*/test/good/*.png"))))
    return workspace, archive


def sample(roots: dict[str, int]) -> Sample:
    """What all processes hold now, by kind; a root's kind is its name."""
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0])
    for name, root in roots.items():
        for pid, title in [(root, ""), *descendants(root)]:
            kind = name if pid == root else _kind(title.replace("\0", " "), name)
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            except OSError:  # it has ended
                continue
            size = sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))
            found[kind][0] += size
            found[kind][1] += files
            found[kind][2] += 1
    return {kind: (size, files, int(number)) for kind, (size, files, number) in found.items()}


def _kind(title: str, otherwise: str) -> str:
    return next((kind for mark, kind in _KINDS.items() if mark in title), otherwise)


def nights(
    command: list[str], environment: dict[str, str], log: Path, roots: dict[str, int]
) -> Iterator[tuple[dict[str, Any], Sample]]:
    """What the driver says of each night, and what stood after it."""
    with (
        log.open("wb") as err,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        ) as driver,
    ):
        assert driver.stdout is not None
        assert driver.stdin is not None
        for line in driver.stdout:
            if not line.startswith("{"):
                continue
            time.sleep(_REST_S)
            yield json.loads(line), sample({**roots, "driver": driver.pid})
            driver.stdin.write("\n")
            driver.stdin.flush()
    assert driver.returncode == 0, f"the driver ended with {driver.returncode}, see {log}"


def slope(values: list[float]) -> tuple[float, float, float]:
    """By night, with its 95 % interval."""
    fit = stats.linregress(np.arange(len(values)), values)
    half = stats.t.ppf(0.975, len(values) - 2) * fit.stderr
    return float(fit.slope), float(fit.slope - half), float(fit.slope + half)


def lines_of(found: list[tuple[dict[str, Any], Sample]], images: int, minutes: float) -> list[str]:
    """The figures as a page of Markdown."""
    kept = [one for _, one in found[_WARM_UP:]]
    seconds = [night["seconds"] for night, _ in found]
    lines = [
        "# An hour of nights",
        "",
        f"`python -m tests.bench.soak --minutes {minutes:g} --images {images}`, {machine()}: "
        f"{len(found)} nights of {images:,} images of 64 px from S3, one driver, one cluster; all "
        "ended with exit code 0 and every image a row. A night took "
        f"{np.median(seconds):.0f} s ({min(seconds):.0f} to {max(seconds):.0f}). At rest after "
        f"each night, the first {_WARM_UP} left out, memory as proportional set size; slopes by "
        "night with 95 % intervals.",
        "",
        "| processes | how many | MiB, first | last | slope, KiB a night | open files, first "
        "| last | slope, files a night |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in sorted({kind for one in kept for kind in one}):
        rows = [one.get(kind, (0.0, 0.0, 0)) for one in kept]
        sizes, files, number = ([float(row[at]) for row in rows] for at in range(3))
        by_size = [1024 * one for one in slope(sizes)]
        by_file = slope(files)
        lines.append(
            f"| {kind} | {min(number):.0f} to {max(number):.0f} | {sizes[0]:.1f} | {sizes[-1]:.1f} "
            f"| {by_size[0]:.0f} [{by_size[1]:.0f}, {by_size[2]:.0f}] | {files[0]:.0f} "
            f"| {files[-1]:.0f} | {by_file[0]:.2f} [{by_file[1]:.2f}, {by_file[2]:.2f}] |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--drive", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        workspace, archive = options.drive
        drive(workspace, archive, options.minutes)
        return
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    found: list[tuple[dict[str, Any], Sample]] = []
    with S3Server(options.out / "s3") as server:
        os.environ |= server.environment
        workspace, archive = make(server, options.out, options.images)
        with head(options.out) as first:
            roots = {"other of Ray": first.pid, "SeaweedFS": server.pid}
            environment = {
                **first.environment,
                "RAY_ADDRESS": f"127.0.0.1:{first.ports['port']}",
                "OMP_WAIT_POLICY": "PASSIVE",
            }
            words = [sys.executable, "-m", "tests.bench.soak", "--out", str(options.out)]
            words += ["--minutes", str(options.minutes), "--drive", workspace, archive]
            for night, held in nights(words, environment, options.out / "driver.log", roots):
                print(json.dumps(night | {"held": held}), flush=True)
                assert night["exit_code"] == 0
                assert night["images"] == options.images
                found.append((night, held))
    name = f"soak_{os.cpu_count()}-cores_{datetime.now(UTC):%Y%m}.md"
    text = "\n".join(lines_of(found, options.images, options.minutes)) + "\n"
    (RESULTS / name).write_text(text)
    print(text)


if __name__ == "__main__":
    main()
