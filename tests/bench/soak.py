"""Nights again and again on one cluster: does any process grow?

    python -m tests.bench.soak --out FOLDER [--minutes 60] [--images 5000]

A head as cluster/ has it, SeaweedFS beside it, a reader of Ray's metrics in Prometheus' place, and
`mrkd score` night after night over the same archive on S3: each in a process of its own, as a
scheduler starts it. After each night, at rest, the memory of every process (proportional set size:
what Ray's processes share is counted once) and its open files are summed by what it is; of the
night's own process there is its peak. The slope over nights is least squares with its 95 % interval
by Student's t; the first nights, in which caches fill, are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from mrkd import storage
from mrkd.data import datasets
from mrkd.storage.thread_map import in_threads
from mrkd.training.category import train_category
from tests.bench.score import RESULTS, machine
from tests.support.clusters import head
from tests.support.models import small_config
from tests.support.parts import make_parts
from tests.support.processes import descendants, proportional
from tests.support.s3_server import S3Server

_WARM_UP = 3
"""Nights that are left out."""
_REST_S = 5.0
_SCRAPE_S = 30.0
"""As cluster/monitoring/scrape.yaml says."""
_MRKD = Path(sys.executable).with_name("mrkd")
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


@contextmanager
def scraped(port: int) -> Iterator[None]:
    """A Ray whose metrics are read as Prometheus does: what is not read, Ray keeps."""
    over = threading.Event()

    def read() -> None:
        while not over.wait(_SCRAPE_S):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
                answer.read()

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        try:
            yield
        finally:
            over.set()
            reader.result()


def night(command: list[str], environment: dict[str, str], log: Path) -> dict[str, Any]:
    """What one night says at its end, its seconds and the peak of its process in MiB."""
    began, peak = time.monotonic(), 0.0
    with (
        log.open("ab") as err,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=err, text=True
        ) as process,
    ):
        while process.poll() is None:
            # Not what `wait4` says, in which the memory of this process counts.
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peak = int(line.split()[1]) / 1024
            time.sleep(0.2)
        assert process.stdout is not None
        said = json.loads(process.stdout.read().splitlines()[-1])
    found = {"exit_code": process.returncode, "images": said["counts"]["images"]}
    return found | {"seconds": time.monotonic() - began, "peak": peak}


def _environment() -> dict[str, str]:
    """Of every node, as the image of cluster/ sets it."""
    text = (Path(__file__).parents[2] / "cluster" / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split()[1:] for line in text.splitlines() if line.startswith("ENV ")]
    return dict(word.split("=", 1) for words in lines for word in words)


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

    list(in_threads(put, sorted(root.glob("*/test/good/*.png"))))
    return workspace, archive


def sample(roots: dict[str, int]) -> Sample:
    """What all processes hold now, by kind; a root's kind is its name."""
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0])
    for name, root in roots.items():
        for pid, title in [(root, ""), *descendants(root)]:
            kind = name if pid == root else _kind(title.replace("\0", " "), name)
            try:
                size = proportional(pid) / 2**20
                files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            except OSError:  # it has ended
                continue
            found[kind][0] += size
            found[kind][1] += files
            found[kind][2] += 1
    return {kind: (size, files, int(number)) for kind, (size, files, number) in found.items()}


def _kind(title: str, otherwise: str) -> str:
    return next((kind for mark, kind in _KINDS.items() if mark in title), otherwise)


def slope(values: list[float]) -> tuple[float, float, float]:
    """By night, with its 95 % interval."""
    fit = stats.linregress(np.arange(len(values)), values)
    half = stats.t.ppf(0.975, len(values) - 2) * fit.stderr
    return float(fit.slope), float(fit.slope - half), float(fit.slope + half)


def row(kind: str, sizes: list[float], files: list[float], number: list[int]) -> str:
    """Of one kind of processes, over nights."""
    by_size = [f"{1024 * one:.0f}" for one in slope(sizes)]
    # Files that never change have no spread.
    by_file = [f"{one:.2f}" for one in slope(files)] if len(set(files)) > 1 else ["0", "0", "0"]
    return (
        f"| {kind} | {min(number)} to {max(number)} | {sizes[0]:.1f} | {sizes[-1]:.1f} "
        f"| {by_size[0]} [{by_size[1]}, {by_size[2]}] | {files[0]:.0f} | {files[-1]:.0f} "
        f"| {by_file[0]} [{by_file[1]}, {by_file[2]}] |"
    )


def lines_of(found: list[tuple[dict[str, Any], Sample]], images: int, minutes: float) -> list[str]:
    """The figures as a page of Markdown."""
    kept = [one for _, one in found[_WARM_UP:]]
    seconds = [one["seconds"] for one, _ in found]
    peaks = [one["peak"] for one, _ in found[_WARM_UP:]]
    lines = [
        f"# {minutes:g} minutes of nights",
        "",
        f"`python -m tests.bench.soak --minutes {minutes:g} --images {images}`, {machine()}: "
        f"{len(found)} nights of {images:,} images of 64 px from S3 on one cluster, each `mrkd "
        "score` in a process of its own; all ended with exit code 0 and every image a row. A "
        f"night took {np.median(seconds):.0f} s ({min(seconds):.0f} to {max(seconds):.0f}). At "
        f"rest after each night, the first {_WARM_UP} left out, memory as proportional set size; "
        "slopes by night with 95 % intervals. Of the night's own process, which ends with it, the "
        "largest resident set.",
        "",
        "| processes | how many | MiB, first | last | slope, KiB a night | open files, first "
        "| last | slope, files a night |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in sorted({kind for one in kept for kind in one}):
        sizes, files, number = zip(*(one.get(kind, (0.0, 0.0, 0)) for one in kept), strict=True)
        lines.append(row(kind, list(sizes), list(files), list(number)))
    by_peak = [f"{1024 * one:.0f}" for one in slope(peaks)]
    lines.append(
        f"| a night's own, peak | 1 to 1 | {peaks[0]:.1f} | {peaks[-1]:.1f} "
        f"| {by_peak[0]} [{by_peak[1]}, {by_peak[2]}] | | | |"
    )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--images", type=int, default=5000)
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    found: list[tuple[dict[str, Any], Sample]] = []
    with S3Server(options.out / "s3") as server:
        os.environ |= {**server.environment, **_environment()}
        workspace, archive = make(server, options.out, options.images)
        with head(options.out) as first, scraped(first.ports["metrics-export-port"]):
            roots = {"other of Ray": first.pid, "SeaweedFS": server.pid}
            environment = {
                **first.environment,
                "RAY_ADDRESS": f"127.0.0.1:{first.ports['port']}",
                "OMP_WAIT_POLICY": "PASSIVE",
            }
            config = options.out / "night.toml"
            config.write_text(f'workspace = "{workspace}"\n[archive]\nuri = "{archive}"\n')
            command = [str(_MRKD), "score", str(config), "--run"]
            until = time.monotonic() + 60 * options.minutes
            while time.monotonic() < until:
                name = f"night-{len(found) + 1:04}"
                said = night([*command, name], environment, options.out / "nights.log")
                time.sleep(_REST_S)
                held = sample(roots)
                print(json.dumps(said | {"held": held}), flush=True)
                assert said["exit_code"] == 0
                assert said["images"] == options.images
                found.append((said, held))
    name = f"soak_{os.cpu_count()}-cores_{datetime.now(UTC):%Y%m}.md"
    text = "\n".join(lines_of(found, options.images, options.minutes)) + "\n"
    (RESULTS / name).write_text(text)
    print(text)


if __name__ == "__main__":
    main()
