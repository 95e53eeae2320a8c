"""The page of an evaluation: what the models said, set against what people had said."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs

from mrkd.evaluation import LEFT_OUT, MEAN
from mrkd.reports import charts, pictures
from mrkd.reports.content import Category, MetricRow, Model, PageData, Picture

# In the order of the page: metric -> title, explanation.
METRIC_WORDS = {
    "image_auroc": (
        "Good and defective told apart (image AUROC)",
        "Chance that a defective image scores above a good one. 1 is perfect, 0.5 a coin toss.",
    ),
    "average_precision": (
        "Average precision (AP)",
        "How purely the top of the list, sorted by score, holds defective images.",
    ),
    "average_precision_at_2_percent": (
        "Average precision if 2\u00a0% were defective",
        "The same for a line on which defects are rare.",
    ),
    "f1_max": (
        "Best F1",
        "Balance of defects found and calls that were right, at the best threshold there is.",
    ),
    "f1_max_threshold": ("Threshold of the best F1", ""),
    "fpr_at_95_recall": (
        "False calls when 95\u00a0% of defects must be found",
        "Share of good parts that would be called defective. Lower is better.",
    ),
    "fpr_at_100_recall": (
        "False calls when every defect must be found",
        "The same for 100 %: one odd defect decides it. Lower is better.",
    ),
    "pixel_auroc": (
        "Defective spots told apart (pixel AUROC)",
        "As the first figure, for pixels; large defects outweigh small ones.",
    ),
    "aupro": (
        "Defects covered by the heat map (AUPRO)",
        "Average share of each defect that is covered, small and large ones alike.",
    ),
}
Counts = tuple[int, int, int]
"""Numbers of OK, NOK and ERROR."""

_SHORT = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}


@dataclass(frozen=True)
class Share:
    """How many of how many."""

    count: int
    of: int

    @property
    def share(self) -> float:
        """The quotient, in [0, 1]."""
        return self.count / self.of


def evaluation_page(data: PageData) -> str:
    """The whole page as HTML that stands alone: it reads no other file and asks no network."""
    categories = [_category(category) for category in data.categories]
    return (
        _environment()
        .get_template("evaluation.html.j2")
        .render(
            run=data.run,
            scored_at=data.scored_at,
            part=data.part,
            root=data.root,
            categories=categories,
            totals=_sum(c["counts"] for c in categories),
            with_masks=any(c.get("aupro") for c in categories),
            random_teachers=sorted(
                {c.model.teacher for c in data.categories if c.model and c.model.random_teacher}
            ),
            archive=data.archive,
            archived=_sum(data.archive.counts.values()) if data.archive else None,
            settings=json.dumps(data.config, indent=2, ensure_ascii=False),
            plotly=_plotly(),
        )
    )


def _category(category: Category) -> dict[str, Any]:
    """What the template shows of a category."""
    model, errors = category.model, category.errors
    view: dict[str, Any] = {
        "name": category.name,
        "anchor": f"category-{category.name}",
        "failure": category.failure,
        "model": model,
        "errors": errors,
        "counts": (0, 0, len(errors)),
    }
    if model is None:
        return view
    called = category.scores > model.threshold
    good = category.headline & (category.gt_labels == 0)
    bad = category.headline & (category.gt_labels == 1)
    overall = {row.metric: row for row in category.metrics if row.defect is None}
    # Over all pixels the largest kind of defect decides alone; the mean over the kinds says more.
    means = {row.metric: row for row in category.metrics if row.defect == MEAN}
    view |= {
        "counts": (int((~called).sum()), int(called.sum()), len(errors)),
        "found": _share(called, bad),
        "false_calls": _share(called, good),
        "image_auroc": overall.get("image_auroc"),
        "aupro": means.get("aupro", overall.get("aupro")),
        "figures": _figures(overall.values()),
        "without_gt_mask": sum(int(r.value or 0) for r in category.metrics if r.metric == LEFT_OUT),
        "apart": sorted(set(category.defects[~category.headline].tolist())),
    }
    view |= _by_defect(category, called) | _charts(category, model.threshold)
    for name in ("highest", "nearest"):
        shown: Sequence[Picture] = getattr(category, name)
        view[name] = [_card(picture, model, _usual(category)) for picture in shown]
    return view


def _figures(rows: Iterable[MetricRow]) -> list[dict[str, Any]]:
    """Metrics in the page's order, those it has no words for last and by their own name."""
    order = {metric: place for place, metric in enumerate(METRIC_WORDS)}
    ordered = sorted(rows, key=lambda row: (order.get(row.metric, len(order)), row.metric))
    words = [METRIC_WORDS.get(row.metric, (row.metric, "")) for row in ordered]
    return [
        {"title": title, "words": text, "metric": row}
        for row, (title, text) in zip(ordered, words, strict=True)
    ]


def _by_defect(category: Category, called: NDArray[np.bool_]) -> dict[str, Any]:
    rows = {(row.defect, row.metric): row for row in category.metrics if row.defect is not None}
    metrics = [name for name in METRIC_WORDS if any(metric == name for _, metric in rows)]
    names = sorted(
        {defect for defect, _ in rows if defect is not None}, key=lambda name: (name == MEAN, name)
    )
    return {
        "defect_titles": [_SHORT.get(name, name) for name in metrics],
        "defects": [
            {
                "name": name,
                "found": _share(called, category.defects == name),
                "metrics": [rows.get((name, metric)) for metric in metrics],
            }
            for name in names
        ],
    }


def _charts(category: Category, threshold: float) -> dict[str, Any]:
    scores, gt_labels, headline = category.scores, category.gt_labels, category.headline
    if not len(scores):
        return {"histogram": None, "roc": None}
    return {
        "histogram": charts.histogram(scores, gt_labels, headline, threshold=threshold),
        "roc": charts.roc(scores[headline], gt_labels[headline], threshold=threshold),
    }


def _card(picture: Picture, model: Model, usual: float) -> dict[str, Any]:
    gt_mask, anomaly_map = picture.gt_mask, picture.anomaly_map
    size = {"height": picture.height, "width": picture.width}
    verdict = "NOK" if picture.is_anomalous else "OK"
    # What people were unsure of is neither missed nor a false call.
    remarks: dict[tuple[bool, int | None], str] = {(False, 1): "missed", (True, 0): "false call"}
    remark = remarks.get((picture.is_anomalous, picture.gt_label), "") if picture.headline else ""
    heat = None
    if anomaly_map is not None:
        heat = pictures.heat_uri(anomaly_map, low=usual, high=model.pixel_threshold)
    return size | {
        "uri": picture.image_uri,
        "name": PurePosixPath(picture.image_uri).name,
        "jpeg": None if picture.pixels is None else pictures.jpeg_uri(picture.pixels),
        "heat": heat,
        "map_box": picture.map_box,
        "regions": picture.regions,
        "truth": "" if gt_mask is None else pictures.outline(gt_mask, **size),
        "score": picture.image_score,
        "p_value": picture.p_value,
        "verdict": verdict,
        "wrong": remark,
        "label": "unknown" if picture.gt_label is None else picture.defect,
    }


def _usual(category: Category) -> float:
    """The median of the maps shown: most pixels, even of defective parts, are sound."""
    maps = [p.anomaly_map for p in (*category.highest, *category.nearest)]
    pixels = [values.ravel() for values in maps if values is not None]
    return float(np.median(np.concatenate(pixels))) if pixels else 0.0


def _sum(counts: Iterable[Counts]) -> Counts:
    ok, nok, error = (sum(numbers) for numbers in zip((0, 0, 0), *counts, strict=True))
    return ok, nok, error


def _share(called: NDArray[np.bool_], among: NDArray[np.bool_]) -> Share:
    return Share(int(called[among].sum()), int(among.sum()))


def _figure(value: float) -> str:
    return f"{value:.3f}"


def _score(value: float) -> str:
    return f"{value:.4g}"


def _percent(value: float) -> str:
    return f"{value * 100:.2g}\u00a0%" if value < 0.1 else f"{value * 100:.0f}\u00a0%"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mrkd.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "score": _score, "percent": _percent}
    return environment


@cache
def _plotly() -> str:
    """plotly.js in gzip and base64: 2.0 MB instead of 4.8; the same bytes on every call."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode("ascii")
