"""Tables 4 to 7 and the curve of the mask rate, on solar cells and magnetic tiles.

    python -m tests.bench.ablations --out FOLDER --mtd FOLDER [--image-size 256] [--steps 1200]

Three seeds of 18 arms on two categories, preset `masked`: hours on two cores. The folder stays: the
same call goes on where it was ended, and writes the tables in `tests/bench/results/` once all runs
have ended. The ResNets' Table 4 is the same evaluation with a `model.backbone` among them and their
official checkpoints, see `jobs/README.md`.
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from mrkd import storage
from mrkd.config import EvalConfig
from mrkd.runs.evaluate import run as evaluate
from tests.bench.score import machine
from tests.bench.search import RESULTS, make_data
from tests.support.rays import RAY


def evaluation(folder: Path, *, image_size: int, steps: int) -> EvalConfig:
    """Every ablation with three seeds, one core a training."""
    return EvalConfig.from_dict(
        {
            "workspace": str(folder / "workspace"),
            "run": f"ablations-{image_size}-{steps}",
            "data": {"root": str(folder / "parts")},
            "protocol": "mtd",
            "ablation": "all",
            "num_seeds": 3,
            "model": {"preset": "masked", "image_size": image_size},
            "train": {"max_steps": steps, "precision": "float32"},
            "fleet": {"cpus_per_worker": 1},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mtd", required=True)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=1200)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    make_data(options.out / "parts", options.mtd)
    config = evaluation(options.out, image_size=options.image_size, steps=options.steps)
    summary = evaluate.run(config, RAY)
    print(summary.to_json())
    if summary.exit_code:
        return
    tables = storage.read(summary.uris["tables"]).decode()
    head = (
        f"`python -m tests.bench.ablations --image-size {options.image_size} --steps "
        f"{options.steps}`: preset `masked`, one core a training, {machine()}.\n"
    )
    title, _, rest = tables.partition("\n")
    name = f"ablations_{os.cpu_count()}-cores_{summary.finished_at[:7].replace('-', '')}.md"
    (RESULTS / name).write_text(f"{title}\n\n{head}{rest}")


if __name__ == "__main__":
    main()
