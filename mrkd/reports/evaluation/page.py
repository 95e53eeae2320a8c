"""The page of an evaluation: what the models said, set against what people had said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrkd.evaluation.category_metrics import LEFT_OUT, MEAN
from mrkd.reports.evaluation.values import Category, PageData
from mrkd.reports.kit import charts, page, pictures
from mrkd.reports.kit.values import LeakPair, MetricRow, Model, Picture

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
    "image_auroc_rare": (
        "Image AUROC with few defects",
        "On test sets drawn with as many defects as `defect_rate` states: mean, and the range that "
        "19 of 20 draws lie in.",
    ),
    "average_precision_rare": ("Average precision with few defects", "The same."),
    "f1_max_rare": ("Best F1 with few defects", "The same."),
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
    return page.render(
        "evaluation.html.j2",
        run=data.run,
        scored_at=data.scored_at,
        part=data.part,
        root=data.root,
        categories=categories,
        totals=_sum(c["counts"] for c in categories),
        with_masks=any(c.get("aupro") for c in categories),
        teachers=sorted({c.model.teacher for c in data.categories if c.model}),
        archive=data.archive,
        archived=_sum(data.archive.counts.values()) if data.archive else None,
        config=data.config,
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
        "num_leaks": category.num_leaks,
        "leaks": (),
        "operating": category.operating,
        "has_costs": any(row["cost_in_10000"] is not None for row in category.operating),
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
        "leaks": [leak_view(pair) for pair in category.leaks],
        "apart": sorted(set(category.defects[~category.headline].tolist())),
    }
    view |= _by_defect(category, called) | _charts(category, model.threshold)
    usual = page.usual((*category.highest, *category.nearest))
    for name in ("highest", "nearest"):
        shown: Sequence[Picture] = getattr(category, name)
        view[name] = [_card(picture, model, usual) for picture in shown]
    return view


def leak_view(pair: LeakPair) -> dict[str, Any]:
    """What the template `twins` shows of a pair."""
    sides = ((pair.image_uri, pair.pixels), (pair.training_uri, pair.training_pixels))
    return {
        "similarity": page.figure(pair.similarity),
        "sides": [
            {
                "uri": uri,
                "name": uri.rpartition("/")[2],
                "jpeg": None if pixels is None else pictures.jpeg_uri(pixels),
            }
            for uri, pixels in sides
        ],
    }


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
    kinds = [
        ("good", charts.GOOD_COLOUR, "", headline & (gt_labels == 0)),
        ("defective", charts.DEFECTIVE_COLOUR, "/", headline & (gt_labels == 1)),
        ("reported apart", charts.APART_COLOUR, ".", ~headline),
    ]
    series = [
        charts.Series(name, colour, hatch, scores[chosen]) for name, colour, hatch, chosen in kinds
    ]
    return {
        "histogram": charts.histogram(series, threshold=threshold),
        "roc": charts.roc(scores[headline], gt_labels[headline], threshold=threshold),
    }


def _card(picture: Picture, model: Model, usual: float) -> dict[str, Any]:
    verdict = "NOK" if picture.is_anomalous else "OK"
    # What people were unsure of is neither missed nor a false call.
    remarks: dict[tuple[bool, int | None], str] = {(False, 1): "missed", (True, 0): "false call"}
    remark = remarks.get((picture.is_anomalous, picture.gt_label), "") if picture.headline else ""
    facts = {
        "score": page.score(picture.image_score),
        "p-value": "unknown" if picture.p_value is None else page.figure(picture.p_value),
        "truth": "unknown" if picture.gt_label is None else picture.defect,
    }
    card = page.card(picture, facts, usual=usual, pixel_threshold=model.pixel_threshold)
    return card | {"verdict": verdict, "wrong": remark}


def _sum(counts: Iterable[Counts]) -> Counts:
    ok, nok, error = (sum(numbers) for numbers in zip((0, 0, 0), *counts, strict=True))
    return ok, nok, error


def _share(called: NDArray[np.bool_], among: NDArray[np.bool_]) -> Share:
    return Share(int(called[among].sum()), int(among.sum()))
