"""The tables of mrkd/README.md: the model, its parts and its baselines on all real sets.

    python -m tests.bench.real_sets --data FOLDER --cache FOLDER [--seeds 3] [--part val]
        [--sets NAME ...] [--arms NAME ...] [--out FILE]

The folder holds `mtd`, `piped`, `bsdata` and `dobot` in MVTec AD layout; the solar cells come from
their package. Every finished run is kept in the cache, so that a killed table goes on. Choices are
made on `--part val` alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mrkd.config import DataConfig, EvalConfig, TrainConfig
from mrkd.data import datasets
from mrkd.evaluation.ablation.statistics import difference, mean
from mrkd.evaluation.ablation.variants import ALONE, CELLS, NEAREST, PLAIN_RD, RD
from mrkd.evaluation.category_metrics import MEAN
from mrkd.evaluation.evaluate_model import Evaluator, judge_of, measure
from mrkd.evaluation.metrics import Metric
from mrkd.training.category import TrialHook, fit_nearest, train_category

DEFAULT, BEFORE = "default", "default of before (preset student)"
ARMS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    CELLS: {"model.preset": "quick"},
    BEFORE: {"model.preset": "student"},
    "MRKD masked": {"model.preset": "masked"},
    # It sees as many images as the others: half the steps of twice the batch.
    "MRKD paper": {"model.preset": "paper", "train.max_steps": 100},
    RD: {**PLAIN_RD, "model.preset": "student"},
    NEAREST: ALONE,
}
"""Config values of each arm; all of them train in float32, whatever this machine would choose."""
FIGURES = (("image_auroc", None), ("aupro", MEAN))
RATES = (0.01, 0.05)


@dataclass(frozen=True)
class Place:
    """Where a category's images are."""

    category: str
    root: str
    layout: str

    @property
    def data(self) -> DataConfig:
        return DataConfig(self.root, self.layout, (self.category,))  # type: ignore[arg-type]


def places(folder: Path) -> list[Place]:
    """All real sets: papers, cubes, ball screws, magnetic tiles, two kinds of solar cells."""
    found = [
        Place(category.name, str(folder / name), "mvtec")
        for name in ("piped", "dobot", "bsdata", "mtd")
        for category in sorted((folder / name).iterdir())
        if category.is_dir()
    ]
    return found + [Place(kind, elpv_root(), "elpv") for kind in ("mono", "poly")]


def elpv_root() -> str:
    """Where the package of the solar cells keeps them."""
    spec = importlib.util.find_spec("elpv_dataset")
    assert spec, "pip install elpv-dataset"
    assert spec.origin
    return str(Path(spec.origin).parent / "data")


@dataclass(frozen=True)
class Run:
    """What one arm gave on one category with one seed.

    Args:
        metrics: rows of `schema.FIGURES`.
        scores: rows of `labelled.LABELLED`.
        told: `threshold`, `train_s`, `model_bytes`, `num_images`, `steps`.
    """

    metrics: pa.Table
    scores: pa.Table
    told: Mapping[str, Any]

    def figure(self, metric: str, defect: str | None) -> Metric | None:
        """A figure with its draws; None where it is not defined."""
        for n, row in enumerate(self.metrics.drop_columns(["draws"]).to_pylist()):
            if (row["metric"], row["defect"]) == (metric, defect) and row["value"] is not None:
                draws = np.asarray(self.metrics["draws"][n].values)
                return Metric(row["value"], row["low"], row["high"], "", draws)
        return None

    def calls(self) -> tuple[float, float, float]:
        """Shares of good images and of defective ones that are called, and how many of these the
        best threshold would find that calls 1 % of the good ones at most."""
        rows = [row for row in self.scores.to_pylist() if row["headline"] and not row["error_kind"]]
        scores = np.array([row["image_score"] for row in rows])
        labels = np.array([row["gt_label"] for row in rows])
        good, bad = scores[labels == 0], scores[labels == 1]
        best = np.quantile(good, 0.99, method="higher")
        called = [float((some > self.told["threshold"]).mean()) for some in (good, bad)]
        return called[0], called[1], float((bad > best).mean())


def run(place: Place, arm: str, seed: int, part: str, cache: Path) -> Run:
    """A run, from the cache where it is there."""
    values = {**ARMS[arm], "train.seed": seed, "train.precision": "float32"}
    base = TrainConfig.from_dict(
        {"workspace": str(cache), "run": "bench", "data": place.data.to_dict()}
    )
    name = f"{place.category}-{arm.replace(' ', '_').partition('(')[0]}-{seed}"
    config = base.with_values({**values, "workspace": str(cache / "workspaces" / name)})
    folder = cache / "runs" / part / name
    if not (folder / "told.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _measure(place, arm, seed, part, config, folder)
    metrics, scores = (pq.read_table(folder / f"{kind}.parquet") for kind in ("metrics", "scores"))
    return Run(metrics, scores, json.loads((folder / "told.json").read_text()))


def _measure(
    place: Place, arm: str, seed: int, part: str, config: TrainConfig, folder: Path
) -> None:
    samples = datasets.load(place.data)[place.category]
    evaluation = EvalConfig(config.workspace, "bench", place.data, part=part)  # type: ignore[arg-type]
    began = time.monotonic()
    told: dict[str, Any] = {}
    if arm == NEAREST:
        memory, calibration = fit_nearest(config, samples)
        judge = Evaluator(memory, calibration, "", seed, "")
    else:
        result = train_category(config, place.category, samples, probe=TrialHook.silent(""))
        judge = judge_of(evaluation, place.category, result.version)
        told = {name: getattr(result, name) for name in ("model_bytes", "num_images", "steps")}
    told |= {"train_s": time.monotonic() - began, "threshold": judge.calibration.threshold}
    found = measure(judge, evaluation, place.category, samples)
    pq.write_table(found.metrics, folder / "metrics.parquet")
    pq.write_table(found.scores, folder / "scores.parquet")
    (folder / "told.json").write_text(json.dumps(told))
    print(f"{place.category} {arm} seed {seed}: {told['train_s']:.0f} s", flush=True)


def table(runs: Mapping[tuple[str, str], Sequence[Run]], arms: Sequence[str], part: str) -> str:
    """The Markdown of all sets."""
    names = list(dict.fromkeys(category for category, _ in runs))
    lines = []
    for metric, defect in FIGURES:
        title = f"{metric}{', mean of kinds' if defect else ''}"
        lines += [f"\n### {title} ({part})\n", _head("set", *arms, f"{DEFAULT} less before")]
        own = [n for n in names if runs[n, DEFAULT][0].figure(metric, defect)]
        found = {
            (n, arm): [f for one in runs[n, arm] if (f := one.figure(metric, defect))]
            for n in own
            for arm in arms
        }
        for n in own:
            cells = [_cell(mean(found[n, arm])) for arm in arms]
            lines.append(_row(n, *cells, _gap(found[n, DEFAULT], found.get((n, BEFORE)))))
        over = [np.mean([mean(found[n, arm]).value or 0 for n in own]) for arm in arms]
        lines.append(_row("mean", *(f"{value:.4f}" for value in over), ""))
    lines += [
        f"\n### Good images called defective at 1 % asked / defective ones found ({part})\n",
        _head("set", *arms, f"best threshold of {DEFAULT}"),
    ]
    sums: dict[str, list[tuple[float, float, float]]] = {arm: [] for arm in arms}
    for n in names:
        cells = []
        for arm in arms:
            called, caught, best = np.mean([one.calls() for one in runs[n, arm]], 0).tolist()
            sums[arm].append((called, caught, best))
            cells.append(f"{called:.1%} / {caught:.3f}")
        lines.append(_row(n, *cells, f"{sums[DEFAULT][-1][2]:.3f}"))
    means = [np.mean(sums[arm], 0).tolist() for arm in arms]
    cells = [f"{called:.1%} / {caught:.3f}" for called, caught, _ in means]
    lines.append(_row("mean", *cells, f"{np.mean(sums[DEFAULT], 0)[2]:.3f}"))
    return "\n".join(lines) + "\n"


def _gap(ours: Sequence[Metric], theirs: Sequence[Metric] | None) -> str:
    return _cell(difference(ours, theirs), signed=True) if theirs else ""


def _cell(found: Metric, *, signed: bool = False) -> str:
    if found.value is None:
        return "-"
    sign = "+" if signed else ""
    text = f"{found.value:{sign}.4f}"
    return text if found.low is None else f"{text} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


def _head(*cells: str) -> str:
    return f"{_row(*cells)}\n{'|---' * len(cells)}|"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Runs what is missing and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--part", default="test")
    parser.add_argument("--arms", nargs="*", default=[DEFAULT, CELLS, BEFORE, RD, NEAREST])
    parser.add_argument("--sets", nargs="*")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    chosen = [p for p in places(options.data) if not options.sets or p.category in options.sets]
    runs = {
        (place.category, arm): [
            run(place, arm, seed, options.part, options.cache) for seed in range(options.seeds)
        ]
        for place in chosen
        for arm in options.arms
    }
    text = table(runs, options.arms, options.part)
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
