"""Rows on thresholds, escapes and false calls, and rare defects, from labelled images.

The rules are those of `metrics/thresholds.py`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mrkd.config import EvalConfig
from mrkd.evaluation.metrics import OperatingPoint, operating_points, rare_defects
from mrkd.evaluation.metrics.thresholds import PARTS


def operating_rows(
    config: EvalConfig, category: str, scores: pa.Table, threshold: float
) -> list[dict[str, Any]]:
    """Rows of `schema.OPERATING`; none where one class is missing.

    Args:
        config: configuration with the line's defect rate and costs.
        category: its name.
        scores: rows of its images, `evaluate_model.LABELLED`.
        threshold: the model's own.
    """
    shown = _headline(scores)
    points = operating_points(
        shown["image_score"],
        shown["gt_label"],
        shown["group"].to_pylist(),
        threshold=threshold,
        defect_rate=config.defect_rate,
        cost_escape=config.cost_escape,
        cost_false_call=config.cost_false_call,
    )
    return [operating_row(category, point) for point in points]


def operating_row(category: str, point: OperatingPoint) -> dict[str, Any]:
    """The row of `schema.OPERATING` of a point."""
    return {
        "category": category,
        "rule": point.rule,
        "threshold": point.threshold,
        "cost_in_10000": None if point.cost is None else PARTS * point.cost,
    } | {
        f"{name}{end}": getattr(getattr(point, name), part)
        for name in ("false_calls", "escapes", "false_calls_in_10000", "escapes_in_10000")
        for part, end in (("value", ""), ("low", "_low"), ("high", "_high"))
    }


def rare_rows(config: EvalConfig, scores: pa.Table) -> list[dict[str, Any]]:
    """Values of `schema.METRICS` by column, of test sets with as few defects as the line has.

    Args:
        config: configuration with the line's defect rate, resamples and their seed.
        scores: rows of a category's images, `evaluate_model.LABELLED`.
    """
    shown = _headline(scores)
    found = rare_defects(
        shown["image_score"],
        shown["gt_label"],
        defect_rate=config.defect_rate,
        resamples=config.resamples,
        seed=config.seed,
    )
    return [{"metric": f"{metric}_rare", **asdict(rate)} for metric, rate in found.items()]


def _headline(scores: pa.Table) -> pa.Table:
    """Images that were scored and count over all defects."""
    return scores.filter(pc.field("headline") & pc.field("image_score").is_valid())
