"""Does the objective of drawn defects rank configs as labelled images do?

    python -m tests.bench.synthetic_ranking --out FOLDER --mtd FOLDER [--configs 24]

Trains configs that spread widely on magnetic tiles and solar cells, two at a time, and asks each
model by both: labels of the half to choose by, and defects drawn on good images. Spearman's rho
with a bootstrap interval over configs, as JSON lines and a table in `tests/bench/results/`. What
has been trained stays in the folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mrkd.config import DataConfig, TrainConfig
from mrkd.data import datasets
from mrkd.evaluation.metrics import image_auroc
from mrkd.training.category import TrialHook, train_category
from mrkd.training.search import key_of, objective
from mrkd.training.search.objective import Objective
from tests.bench.search import RESULTS, make_data

_MAX_IMAGES = 400
SEED = 11


def draw(rng: random.Random) -> dict[str, Any]:
    """A config; some are bad on purpose, so that there is a ranking to find."""
    fmm = rng.random() < 0.6
    return {
        "model.preset": rng.choice(["default", "masked", "paper"]),
        "model.fmm": fmm,
        "model.backbone": rng.choice(
            ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]
        ),
        "model.feature_norm": rng.choice(["none", "standardise", "standardise"]),
        "model.image_score": rng.choice(["max", "top_share_mean"]),
        "model.levels": rng.choice([[], [], [1], [3], [2, 3]]),
        "model.smooth": rng.choice([0.0, 4.0, 8.0]),
        "train.learning_rate": 10 ** rng.uniform(-4, -2),
        "train.mask_rate": rng.uniform(0, 0.9) if fmm else 0.0,
        "train.max_steps": rng.choice([20, 60, 150]),
        "train.warmup_steps": 10,
        "train.batch_size": 8,
    }


def measure(folder: Path, category: str, values: dict[str, Any]) -> dict[str, Any]:
    """Both objectives of one config on one category; kept in a file."""
    path = folder / "configs" / category / f"{key_of(values)}.json"
    if path.exists():
        return json.loads(path.read_text())
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.ERROR)
    root = str(folder / "parts")
    samples = datasets.load(DataConfig(root, categories=(category,)))[category]
    raw = {"workspace": str(folder / "models"), "run": "ranking", "data": {"root": root}}
    config = TrainConfig.from_dict(raw).with_values(values)
    found: dict[str, Any] = {"values": values}

    def marks(model: Any, held_out: Any, threshold: float | None) -> dict[str, float]:
        shared = str(folder / "features")
        asked = {
            "labels": objective.ask_labelled(
                objective.labelled_parts(samples)[0], model, max_images=_MAX_IMAGES
            ),
            "synthetic": objective.ask_synthetic(held_out, model, max_images=_MAX_IMAGES),
        }
        for name, questions in asked.items():
            own = Objective(questions, model, folder=shared).marks(model, with_pixels=False)
            found[name] = own.image_auroc
            found[f"{name}_scores"] = own.scores
            found[f"{name}_labels"] = questions.labels.tolist()
        return {}

    probe = TrialHook(marks, lambda epoch: False, str(folder / "features"))
    train_category(config, category, samples, report=lambda row: None, probe=probe)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return found


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Pearson's correlation of the ranks, ties at their mean."""
    ranks = [_ranks(values) for values in (a, b)]
    return float(np.asarray(np.corrcoef(ranks))[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    below = (values[:, None] > values[None]).sum(1)
    return below + ((values[:, None] == values[None]).sum(1) - 1) / 2


def interval(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float, float]:
    """Rho, and the middle 95 % of it over resamples of configs."""
    rng = np.random.default_rng(SEED)
    draws = rng.integers(len(a), size=(2000, len(a)))
    found = [spearman(a[rows], b[rows]) for rows in draws if len(set(rows.tolist())) > 2]
    low, high = np.quantile(found, [0.025, 0.975]).tolist()
    return spearman(a, b), float(low), float(high)


def by_kind(found: dict[str, Any], kind: int) -> float:
    """Image AUROC of one kind of drawn defects: they come by turns after their good picture."""
    scores, labels = np.array(found["synthetic_scores"]), np.array(found["synthetic_labels"])
    good = np.flatnonzero(labels == 0)
    bad = np.flatnonzero(labels == 1)[kind::3]
    rows = np.concatenate([good, bad])
    value = image_auroc(scores[rows], labels[rows]).value
    assert value is not None
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mtd", required=True)
    parser.add_argument("--configs", type=int, default=24)
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    make_data(options.out / "parts", options.mtd)
    rng = random.Random(SEED)
    configs = [draw(rng) for _ in range(options.configs)]
    rows = [
        "| category | configs | labels, from to | drawn, from to | rho | of the better half "
        "| each kind of defect |",
        "|---|---|---|---|---|---|---|",
    ]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for category in ("magnetic_tile", "mono"):
            found = list(pool.map(partial(measure, options.out, category), configs))
            labels, drawn = (
                np.array([one[name] for one in found]) for name in ("labels", "synthetic")
            )
            rho, low, high = interval(drawn, labels)
            kinds = [spearman(np.array([by_kind(f, k) for f in found]), labels) for k in range(3)]
            better = np.argsort(labels)[len(labels) // 2 :]
            half = interval(drawn[better], labels[better])
            line = {"category": category, "rho": (rho, low, high), "half": half, "kinds": kinds}
            print(json.dumps(line), flush=True)
            rows.append(
                f"| {category} | {len(found)} | {labels.min():.3f} {labels.max():.3f} "
                f"| {drawn.min():.3f} {drawn.max():.3f} | {rho:.2f} [{low:.2f}, {high:.2f}] "
                f"| {half[0]:.2f} [{half[1]:.2f}, {half[2]:.2f}] "
                f"| {' '.join(f'{k:.2f}' for k in kinds)} |"
            )
    text = "# Drawn defects against labels, ranks of configs\n\n" + "\n".join(rows) + "\n"
    (RESULTS / "synthetic_ranking_2-cores_202611.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
