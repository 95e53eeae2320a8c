"""A study's folder as `mrkd evaluate` leaves it, of drawn parts and made-up scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mrkd import storage
from mrkd.config import EvalConfig
from mrkd.data import datasets
from mrkd.data.datasets import Sample
from mrkd.evaluation.ablation import Run, Study, inputs_of, outcome, runs_of, tables_of
from mrkd.evaluation.category_metrics import Pixels, evaluate_category
from mrkd.evaluation.evaluate_model import LABELLED
from mrkd.storage import schema
from tests.support.evaluations import LABELS, MODEL
from tests.support.parts import make_parts


def study_config(folder: Path, **values: object) -> EvalConfig:
    """Two categories, two seeds, every table."""
    raw = {
        "workspace": str(folder / "workspace"),
        "run": "study-1",
        "data": {"root": str(folder / "parts")},
        "model": {"preset": "masked", "backbone": "resnet18"},
        "protocol": "mvtec",
        "ablation": "all",
        "num_seeds": 2,
        "resamples": 10,
        "cost_escape": 100.0,
        "cost_false_call": 2.0,
    }
    return EvalConfig.from_dict(raw).with_values(values)


def write_study(folder: Path, **values: object) -> str:
    """Writes parts, and runs whose arms are the better the later they stand in their table.

    The first seed of the first arm fails on ring.
    """
    root = make_parts(folder / "parts", train=8, test_good=4, test_defect=6)
    config = study_config(folder, **values)
    samples = datasets.load(config.data)
    study, tables = Study(config), tables_of(config)
    fitted = runs_of(config, tables)
    runs = []
    for number, (key, arm) in enumerate(fitted.items()):
        for category, of_category in samples.items():
            for seed in range(config.num_seeds):
                training = arm.training(config, category, seed)
                inputs = inputs_of(config, training, of_category, model_version=1)
                run = Run(key, category, seed, inputs)
                if (number, category, seed) == (0, "ring", 0):
                    run = Run(key, category, seed, inputs, error="<b>no</b> image: add some")
                    study.put(run)
                else:
                    run = _ended(
                        study, run, of_category, 0.5 + 0.1 * number, steps=arm.kind == "mrkd"
                    )
                runs.append(run)
    found = outcome(study, tables, runs)
    for name in ("metrics", "differences", "operating"):
        uri = storage.join(study.uri, f"{name}.parquet")
        storage.write(uri, schema.to_parquet(getattr(found, name)))
    study.store(tables, runs, samples)
    assert root.exists()
    return study.uri


def _ended(study: Study, run: Run, samples: list[Sample], apart: float, *, steps: bool) -> Run:
    rng = np.random.default_rng(run.seed)
    test = [sample for sample in samples if sample.split == "test"]
    pixels, rows = Pixels(), list[dict[str, Any]]()
    for number, sample in enumerate(test):
        anomaly_map = rng.gamma(2, 0.1, (64, 64)).astype(np.float32)
        gt_mask = _mask(sample)
        if gt_mask is not None:
            anomaly_map[gt_mask] += apart
        pixels.add(number, anomaly_map, gt_mask, gt_label=sample.gt_label)
        score = np.float32(anomaly_map.max())
        row: dict[str, Any] = {"image_uri": sample.image_uri, "group": None}
        row |= {name: getattr(sample, name) for name in LABELS}
        row |= {"image_score": score, "p_value": 0.1, "threshold": 1.0}
        row |= {"is_anomalous": bool(score > 1), "image_height": 64, "image_width": 64}
        rows.append(row | schema.encode_map(anomaly_map, "float16"))
    metrics = evaluate_category(
        run.category,
        [row["image_score"] for row in rows],
        [sample.gt_label for sample in test],
        [sample.defect for sample in test],
        pixels=pixels,
        resamples=20,
        seed=run.seed,
    )
    ended = Run(
        **run.to_dict()
        | {
            "model": MODEL,
            "history": [
                {"epoch": n, "step": 4 * (n + 1), "loss": (1 + apart) / (n + 1)}
                for n in range(5 if steps else 0)
            ],
            "model_bytes": 4_000_000,
            "seconds": 12.0,
        }
    )
    study.put(
        ended,
        pa.Table.from_pylist(metrics, schema=schema.FIGURES),
        pa.Table.from_pylist(rows, schema=LABELLED),
    )
    return ended


def _mask(sample: Sample) -> NDArray[np.bool_] | None:
    if not sample.gt_mask_uri:
        return None
    path = sample.gt_mask_uri.removeprefix("file://")
    mask = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
    assert mask is not None
    return np.asarray(mask > 127)
