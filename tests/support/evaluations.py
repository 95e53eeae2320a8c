"""An evaluation's folder as `mrkd evaluate` leaves it, of drawn parts and made-up scores."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mrkd import storage
from mrkd.config import DataConfig, EvalConfig
from mrkd.data import datasets
from mrkd.evaluation.category_metrics import evaluate_category
from mrkd.evaluation.evaluate_model import LABELLED
from mrkd.evaluation.threshold_rows import operating_rows
from mrkd.storage import schema
from tests.support.parts import make_parts

MODEL = {
    "model_version": "3f1c9a77d2e05b18",
    "calibration": 1,
    "teacher": "random:resnet18-0123456789ab",
    "threshold": 1.0,
    "pixel_threshold": 1.0,
    "false_call_rate": 0.01,
    "supported_false_call_rate": 0.04,
    "num_held_out": 24,
    "warning": "24 held-out images support a false-call rate of 4.00%, not 1.00%",
    "image_size": 64,
    "resize": "stretch",
}
LABELS = ("category", "gt_label", "defect", "headline", "gt_mask_uri")


def write_evaluation(folder: Path) -> str:
    """Writes parts and the evaluation of their categories plate and ring; 0012 failed.

    Of each category the first image is an error and the second, a good one, is called defective by
    its threshold of 1; all others are called rightly.
    """
    root = make_parts(folder / "parts", test_good=8, test_defect=8)
    config = EvalConfig("workspace", "eval-1", DataConfig(str(root)), resamples=20)
    uri = storage.join(str(folder), "workspace", "evaluations", "eval-1")
    rows, metrics = [], []
    for category, samples in datasets.load(config.data).items():
        test = [sample for sample in samples if sample.split == "test"]
        scored = [_row(sample, number) for number, sample in enumerate(test)]
        rows += scored
        metrics += evaluate_category(
            category,
            [cast(float, row["image_score"]) for row in scored[1:]],
            [sample.gt_label for sample in test[1:]],
            [sample.defect for sample in test[1:]],
            resamples=20,
        )
    table = pa.Table.from_pylist(rows, schema=LABELLED)
    points = [
        row
        for name in ("plate", "ring")
        for row in operating_rows(config, name, table.filter(pc.field("category") == name), 1.0)
    ]
    operating = pa.Table.from_pylist(points, schema=schema.OPERATING)
    storage.write(storage.join(uri, "operating.parquet"), schema.to_parquet(operating))
    table = table.replace_schema_metadata({"scored_at": "2026-11-23T04:12:00+00:00"})
    metrics_table = pa.Table.from_pylist(metrics, schema=schema.METRICS)
    storage.write(storage.join(uri, "scores.parquet"), schema.to_parquet(table))
    storage.write(storage.join(uri, "metrics.parquet"), schema.to_parquet(metrics_table))
    done = {name: {"status": "done", "reason": "", **MODEL} for name in ("plate", "ring")}
    failed = {"0012": {"status": "failed", "reason": "it has no champion: train it"}}
    record = {"schema": 2, "run": "eval-1", "config": config.to_dict()}
    storage.write_json(storage.join(uri, "evaluation.json"), record | {"categories": done | failed})
    return uri


def _row(sample: datasets.Sample, number: int) -> dict[str, object]:
    row = {"image_uri": sample.image_uri} | {name: getattr(sample, name) for name in LABELS}
    if number == 0:
        return row | {"error_kind": "empty", "error_message": "it holds 0 bytes: copy it again"}
    score = np.float32(0.2 + 0.01 * number + (sample.gt_label or number == 1))
    anomaly_map = np.full((64, 64), 0.1, np.float32)
    if sample.gt_mask_uri:
        path = sample.gt_mask_uri.removeprefix("file://")
        gt_mask = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
        anomaly_map += cv2.GaussianBlur(gt_mask, (0, 0), 3).astype(np.float32) / 50
    region = {"x": 8, "y": 8, "width": 16, "height": 16, "area": 256, "peak": 2.0, "mean": 1.5}
    return {
        **row,
        "image_height": 64,
        "image_width": 64,
        "image_score": score,
        "p_value": 0.04,
        "threshold": MODEL["threshold"],
        "is_anomalous": bool(score > 1),
        "regions": [region] if score > 1 else [],
        **schema.encode_map(anomaly_map, "float16"),
        **{name: MODEL[name] for name in ("model_version", "calibration", "teacher")},
    }
