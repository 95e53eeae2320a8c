"""How long `mrkd nights show` takes over 10 million rows, and what it asks of S3.

    python -m tests.bench.audit --out FOLDER

A hundred nights of 99,840 images. Every manifest is whole; of the shards those are written that the
image's URI may lie in, with maps, as no other is opened. Under one template the categories' URIs
lie apart; under the other a part's folder holds one picture of each, so that an image lies within
fifteen shards a night.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from mrkd import storage
from mrkd.nights.image_history import history
from mrkd.nights.manifest import Manifest, Stored
from mrkd.storage import schema
from tests.bench.score import RESULTS, machine
from tests.support.closed_nights import scored
from tests.support.s3_server import S3Server

NIGHTS, CATEGORIES, SHARDS, ROWS = 100, 15, 26, 256
ROOT = "s3://plant/archive"
TEMPLATES = ("{category}/{name}", "{serial}/{category}/{name}")
_REPEATS = 7


def write_nights(workspace: str, template: str) -> str:
    """Writes the nights, unless they stand, and returns an image that all of them scored."""
    shards, held = [], []
    image = _uri(template, 7, SHARDS * ROWS // 2)
    for category in range(CATEGORIES):
        for number in range(SHARDS):
            uris = [_uri(template, category, number * ROWS + row) for row in range(ROWS)]
            name = f"cap-{category:02}"
            file = f"category={name}/shard-{number:032x}.parquet"
            counts = {"ok": ROWS}
            shards.append(Stored(file, name, ROWS, uris[0], uris[-1], counts, "0" * 64))
            if uris[0] <= image <= uris[-1]:
                held.append((f"scores/{file}", _shard(uris, name)))
    rows = ROWS * len(shards)
    for night in range(NIGHTS):
        uri = storage.join(workspace, "nights", f"night-{night:03}")
        manifest = Manifest(
            run=f"night-{night:03}",
            revision=1,
            rows=rows,
            counts={"ok": rows},
            shards=tuple(shards),
            pins={},
            superseded=(),
            config={"archive": {"uri": ROOT, "template": template, "tars": [".tar"]}},
            closed_at=(datetime(2026, 8, 1, 4, tzinfo=UTC) + timedelta(days=night)).isoformat(),
        )
        place = storage.join(uri, "manifests", "manifest-1.json")
        if not storage.exists(place):
            for name, data in held:
                storage.write(storage.join(uri, name), data)
            storage.write_json(place, asdict(manifest))
    return image


def _uri(template: str, category: int, number: int) -> str:
    fields = {
        "category": f"cap-{category:02}",
        "serial": f"{number:06}",
        "name": f"{number:06}.png",
    }
    return f"{ROOT}/{template.format(**fields)}"


def _shard(uris: list[str], category: str) -> bytes:
    noise = np.random.default_rng(0).random((64, 64), np.float32)
    rows = [scored(uri, 0.1, revision=1, **schema.encode_map(noise, "float16")) for uri in uris]
    plain = [{name: value for name, value in row.items() if name != "category"} for row in rows]
    return schema.to_parquet(schema.score_table(plain, category=category, metadata={}))


def seconds(workspace: str, image: str) -> tuple[float, float]:
    """Medians: of the function, and of the command in a process of its own."""
    called, commands = [], []
    main = "import sys; from mrkd.cli import main; sys.exit(main())"
    for _ in range(_REPEATS):
        began = time.perf_counter()
        assert len(history(workspace, image, maps=False)) == NIGHTS
        called.append(time.perf_counter() - began)
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", main, "nights", "show", image, "--workspace", workspace],
            capture_output=True,
            check=True,
            timeout=300,
        )
        commands.append(time.perf_counter() - began)
        assert json.loads(done.stdout.splitlines()[-1])["counts"]["nights"] == NIGHTS
    return statistics.median(called), statistics.median(commands)


def asked(workspace: str, image: str) -> str:
    """What one call asks of S3."""
    before = storage.requests()
    assert len(history(workspace, image, maps=False)) == NIGHTS
    return ", ".join(f"{n} {name}" for name, n in sorted((storage.requests() - before).items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    lines = [
        "# One image over a hundred nights",
        "",
        f"`python -m tests.bench.audit`: {NIGHTS * CATEGORIES * SHARDS * ROWS:,} rows in "
        f"{NIGHTS * CATEGORIES * SHARDS:,} shards by their manifests, medians of {_REPEATS}, "
        f"{machine()}.",
        "",
        "| template | `history`, s | `mrkd nights show`, s | asked of S3 |",
        "|---|---|---|---|",
    ]
    with S3Server(options.out / "s3") as server:
        os.environ |= server.environment
        for number, template in enumerate(TEMPLATES):
            local = str(options.out / f"workspace-{number}")
            image = write_nights(local, template)
            bucket = server.new_bucket()
            write_nights(bucket, template)
            took = " | ".join(f"{one:.2f}" for one in seconds(local, image))
            lines.append(f"| `{template}` | {took} | {asked(bucket, image)} |")
            print(lines[-1], flush=True)
    name = f"audit_{os.cpu_count()}-cores_{datetime.now(UTC):%Y%m}.md"
    (RESULTS / name).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
