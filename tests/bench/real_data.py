"""The table of mrkd/README.md: MRKD, its parts and its baselines on real parts, in the same run.

    python -m tests.bench.real_data --mtd FOLDER --cache FOLDER [--part val] [--out FILE]

Needs the magnetic tile defects in MVTec AD layout with their `split.csv`; the solar cells come from
their package. Every finished run is kept in the cache, so that a killed table goes on. Choices are
made on `--part val` alone.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from mrkd import datasets, training
from mrkd.backbones import load_teacher
from mrkd.category.images import decode_good, read_good
from mrkd.config import DataConfig, TrainConfig
from mrkd.datasets import GOOD
from mrkd.decoding import Decoder, decode_samples
from mrkd.feature_cache import TeacherFeatures
from mrkd.metrics import (
    Metric,
    PixelHistogram,
    bootstrap_interval,
    image_auroc,
    paired_bootstrap,
    resample_weights,
)
from mrkd.metrics.pixel import PixelMetric
from mrkd.model import build
from mrkd.nearest import NearestNeighbour
from mrkd.scoring import score_images
from mrkd.studies.arms import PLAIN_RD
from mrkd.tables import put_values

SEEDS = (0, 1, 2)
RESAMPLES = 1000
NEAREST = "nearest neighbour"
DEFAULT, MASKED, PAPER, RD = "MRKD default", "MRKD masked", "MRKD paper", "plain RD"
# The paper's arm sees as many images as the others: half the steps of twice the batch.
PAPER_VALUES = {"model.preset": "paper", "train.max_steps": 100}
ARMS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    RD: PLAIN_RD,
    MASKED: {"model.preset": "masked"},
    PAPER: PAPER_VALUES,
}
"""Config values of each arm, over the default preset.

Plain RD is the default without SCSAtt, masked the default with FMM.
"""


@dataclass(frozen=True)
class Part:
    """The images of one category that a figure is taken over, and those it is trained with."""

    name: str
    train: np.ndarray
    validation: np.ndarray
    ids: list[str]
    decoded: list[Any]
    samples: list[datasets.Sample]

    @property
    def labels(self) -> np.ndarray:
        return np.array([s.gt_label for s in self.samples])

    @property
    def defects(self) -> np.ndarray:
        return np.array([s.defect for s in self.samples])

    @property
    def headline(self) -> np.ndarray:
        return np.array([s.headline for s in self.samples])

    @property
    def groups(self) -> list[str | None]:
        return [s.group for s in self.samples]


def elpv_root() -> str:
    """Where the package of the solar cells keeps them."""
    spec = importlib.util.find_spec("elpv_dataset")
    assert spec, "pip install elpv-dataset"
    assert spec.origin
    return str(Path(spec.origin).parent / "data")


@cache
def load(name: str, root: str, layout: str, part: str) -> Part:
    """Decodes a category once for all arms."""
    config = _config({})
    samples = datasets.load(DataConfig(root=root, layout=layout, categories=(name,)))[name]  # type: ignore[arg-type]
    decoder = Decoder(config.model.image_size, config.model.resize)
    good = read_good([s for s in samples if s.split == "train" and not s.gt_label], config.train)
    images = decode_good(good, decoder)
    train, validation = images.on("train"), images.on("validation")
    chosen = [s for s in samples if s.split == part]
    return Part(
        name=name,
        train=images.pixels[train],
        validation=images.pixels[validation],
        ids=[one.digest for one in images.good[train]],
        decoded=list(decode_samples(chosen, decoder)),
        samples=chosen,
    )


@cache
def features(part_name: str, backbone: str, taps: tuple[int, ...], *place: str) -> Any:
    """Teacher and cached features of training, validation and reported images."""
    part = load(part_name, *place)
    teacher = load_teacher(backbone, taps=taps)
    reported = np.stack([d.pixels for d in part.decoded])
    return teacher, [
        TeacherFeatures(teacher, pixels, budget_bytes=2**33)
        for pixels in (part.train, part.validation, reported)
    ]


def run(part: Part, place: tuple[str, ...], arm: str, seed: int) -> dict[str, np.ndarray]:
    """Trains one arm with one seed and scores the part: scores, pixel figures, seconds."""
    if arm == NEAREST:
        _, (train, _, reported) = features(part.name, "efficientnet_lite0", (), *place)
        began = time.perf_counter()
        memory = NearestNeighbour(_config({}).model, train, seed=seed)
        fitted = time.perf_counter() - began
        found = [memory.anomaly_map(memory.distances(levels)) for levels in reported.batches()]
        maps = list(torch.cat(found)[:, 0].numpy())
        scored = time.perf_counter() - began - fitted
        return {
            "scores": _candidate_scores(np.stack(maps)),
            "fit_s": np.array(fitted),
            "images_per_s": np.array(len(maps) / scored),
            **pixel_figures(part, maps),
        }
    # float32 for all, whatever this machine would choose: the arms are to differ in nothing else.
    config = _config({**ARMS[arm], "train.seed": seed, "train.precision": "float32"})
    teacher, (train, validation, _) = features(
        part.name, config.model.backbone, config.model.taps, *place
    )
    for cached in (train, validation):
        _ = cached.levels  # before the clock of the first arm that needs them
    model = build(config.model, teacher, seed=seed)
    fit = training.fit(model, train, validation, config.train, sample_ids=part.ids)
    began = time.perf_counter()
    results = list(score_images(model, part.decoded))
    return {
        "scores": np.array([[r.image_score for r in results]]),
        "fit_s": np.array(fit.seconds + fit.teacher_seconds),
        "images_per_s": np.array(len(results) / (time.perf_counter() - began)),
        **pixel_figures(part, [r.anomaly_map for r in results]),
    }


def _candidate_scores(maps_NHW: np.ndarray) -> np.ndarray:
    """Image scores that the nearest neighbour may choose its best from: `[5, N]`."""
    values = np.sort(maps_NHW.reshape(len(maps_NHW), -1), axis=1)
    mean, top = values.mean(1), values[:, -values.shape[1] // 100 :].mean(1)
    return np.stack(
        [values[:, -1], top, values[:, -values.shape[1] // 20 :].mean(1), mean, top - 0.5 * mean]
    )


def pixel_figures(part: Part, maps: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Pixel AUROC and AUPRO of each defect type, `[defects, 1 + RESAMPLES]`, the value first.

    An image that is anomalous and has no defective pixel in its mask is left out.
    """
    if not any(sample.gt_mask_uri for sample in part.samples):
        return {}
    histogram, kept = PixelHistogram(), []
    for number, (sample, decoded) in enumerate(zip(part.samples, part.decoded, strict=True)):
        gt_mask = None
        if sample.gt_mask_uri:
            gt_mask = datasets.read_gt_mask(sample.gt_mask_uri, decoded.geometry)
            if not gt_mask.any():
                continue
        histogram.add(maps[number], gt_mask)
        kept.append(number)
    defects = part.defects[kept]
    weights = resample_weights(
        defects.tolist(), [part.groups[n] for n in kept], resamples=RESAMPLES, seed=0
    )
    found: dict[str, np.ndarray] = {}
    for metric in get_args(PixelMetric):
        rows = []
        for defect in sorted(set(defects) - {GOOD}):
            chosen = np.flatnonzero((defects == defect) | (defects == GOOD))
            figure, resampled = histogram.resampled(metric, chosen, weights)
            assert figure.value is not None
            rows.append(np.append(figure.value, resampled))
        found[metric] = np.stack(rows)
    return found


class Results:
    """Every run of a data set, by arm: what the table is made of."""

    def __init__(self, part: Part, runs: dict[str, list[dict[str, np.ndarray]]]) -> None:
        self.part, self.runs = part, runs
        counted = part.headline | (part.labels == 0)
        self.rows = np.flatnonzero(counted)

    def scores(self, arm: str) -> np.ndarray:
        """`[seeds, N]`; of the nearest neighbour its best rule, chosen on these very images."""
        found = np.stack([run["scores"] for run in self.runs[arm]], 1)
        labels = self.part.labels[self.rows]
        values = [
            np.mean([image_auroc(s[self.rows], labels).value for s in rule]) for rule in found
        ]
        return np.asarray(found[int(np.argmax(values))])

    def image(self, arm: str, other: str | None = None) -> Metric:
        """Mean image AUROC over seeds, or its difference to another arm's, whole groups drawn."""
        rows, labels = self.rows, self.part.labels[self.rows]
        groups = [self.part.groups[n] for n in rows]
        ours = self.scores(arm)[:, rows]
        if other is None:
            return bootstrap_interval("image_auroc", ours, labels, groups, resamples=RESAMPLES)
        theirs = self.scores(other)[:, rows]
        return paired_bootstrap("image_auroc", ours, theirs, labels, groups, resamples=RESAMPLES)

    def pixel(self, metric: str, arm: str, defect: str | None, other: str | None = None) -> Metric:
        """The same of a pixel metric, of one defect or (None) the mean over them."""
        kinds = sorted(set(self.part.defects) - {GOOD})
        rows = [kinds.index(defect)] if defect else list(range(len(kinds)))

        def distribution(name: str) -> np.ndarray:
            return np.mean([run[metric][rows].mean(0) for run in self.runs[name]], 0)

        drawn = distribution(arm) - (distribution(other) if other else 0.0)
        return Metric.of(drawn[0], drawn[1:])

    def of_defect(self, arm: str, defect: str) -> float:
        """Mean image AUROC over seeds of one kind of defect against all good images."""
        rows = np.flatnonzero((self.part.defects == defect) | (self.part.labels == 0))
        return float(
            np.mean([image_auroc(s[rows], self.part.labels[rows]).value for s in self.scores(arm)])
        )

    def mean(self, arm: str, figure: str) -> float:
        """Mean over seeds of a figure of each run."""
        return float(np.mean([run[figure] for run in self.runs[arm]]))


def measure(
    name: str, root: str, layout: str, *, part: str, arms: Sequence[str], folder: Path
) -> Results:
    """All runs of a data set, from the cache where they are there."""
    place = (root, layout, part)
    loaded = load(name, *place)
    runs: dict[str, list[dict[str, np.ndarray]]] = {}
    for arm in arms:
        for seed in SEEDS:
            resolved = _config(ARMS.get(arm, {})).to_dict()
            values = json.dumps([name, part, arm, seed, resolved], sort_keys=True)
            path = folder / f"{hashlib.sha256(values.encode()).hexdigest()[:16]}.npz"
            if not path.exists():
                found = run(loaded, place, arm, seed)
                partial = path.with_suffix(".part.npz")
                np.savez(partial, **found)  # type: ignore[arg-type]
                partial.rename(path)
                print(f"{name} {part} {arm} seed {seed}: fit {found['fit_s']:.0f} s", flush=True)
            with np.load(path) as stored:
                runs.setdefault(arm, []).append(dict(stored))
    return Results(loaded, runs)


def _config(values: Mapping[str, Any]) -> TrainConfig:
    """The default config under some values, named by dotted paths."""
    raw: dict[str, Any] = {"workspace": "none", "run": "none", "data": {"root": "none"}}
    put_values(raw, values)
    return TrainConfig.from_dict(raw)


def table(results: dict[str, Results], part: str) -> str:
    """The Markdown of all data sets."""
    lines = []
    for name, found in results.items():
        lines += [f"\n### {name} ({part} half, {len(SEEDS)} seeds)\n", *_summary(found)]
        if "aupro" in found.runs[DEFAULT][0]:
            lines += ["", *_by_defect(found)]
    return "\n".join(lines) + "\n"


def _summary(found: Results) -> list[str]:
    pixel = "aupro" in found.runs[DEFAULT][0]
    columns = ["arm", "image AUROC", f"{DEFAULT} less it"]
    columns += ["pixel AUROC, mean of types", "AUPRO, mean of types"] if pixel else []
    columns += ["fit s", "scored images/s"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for arm in found.runs:
        cells = [arm, _cell(found.image(arm))]
        cells.append("" if arm == DEFAULT else _cell(found.image(DEFAULT, arm), signed=True))
        if pixel:
            cells += [_cell(found.pixel(m, arm, None)) for m in ("pixel_auroc", "aupro")]
        cells += [f"{found.mean(arm, 'fit_s'):.0f}", f"{found.mean(arm, 'images_per_s'):.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _by_defect(found: Results) -> list[str]:
    kinds = sorted(set(found.part.defects) - {GOOD})
    lines = ["| arm: image AUROC / pixel AUROC / AUPRO | " + " | ".join(kinds) + " |"]
    lines.append("|" + "---|" * (len(kinds) + 1))
    for arm in found.runs:
        cells = [arm]
        for kind in kinds:
            figures = [found.of_defect(arm, kind)]
            figures += [found.pixel(m, arm, kind).value or 0.0 for m in ("pixel_auroc", "aupro")]
            cells.append(" / ".join(f"{figure:.3f}" for figure in figures))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cell(metric: Metric, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{metric.value:{sign}.3f} [{metric.low:{sign}.3f}, {metric.high:{sign}.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mtd", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--part", choices=("val", "test"), default="test")
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    text = table(
        measure_all(options.mtd, options.cache, part=options.part, only=options.only), options.part
    )
    threads = torch.get_num_threads()
    text = f"torch {torch.__version__}, {threads} thread(s), 256 px, efficientnet_lite0\n{text}"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def measure_all(
    mtd: str, folder: Path, *, part: str = "test", only: str = ""
) -> dict[str, Results]:
    """Every data set, or the one named `only`."""
    folder.mkdir(parents=True, exist_ok=True)
    arms = [DEFAULT, RD, NEAREST, PAPER, MASKED]
    sets = {
        "magnetic_tile": (mtd, "mvtec", arms),
        "mono": (elpv_root(), "elpv", arms),
        "poly": (elpv_root(), "elpv", [arm for arm in arms if arm != MASKED]),
    }
    return {
        name: measure(name, root, layout, part=part, arms=chosen, folder=folder)
        for name, (root, layout, chosen) in sets.items()
        if only in ("", name)
    }


if __name__ == "__main__":
    main()
