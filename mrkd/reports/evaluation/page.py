"""The page of an evaluation: verdicts of the models on labelled images, and their figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrkd.evaluation.category_metrics import LEFT_OUT, MEAN
from mrkd.reports.evaluation.load import ERRORS_SHOWN, Category, PageData
from mrkd.reports.kit import charts, page
from mrkd.reports.kit.values import Row, ScoredImage

_RARE = (
    "On test sets drawn with as many defects as the key defect_rate states: mean, and the range "
    "that 19 of 20 draws lie in."
)
# In the order of the page: metric -> title, explanation.
METRIC_WORDS = {
    "image_auroc": (
        "Separation of good and defective (image AUROC)",
        "Chance that a defective image scores above a good one. 1 is perfect, 0.5 a coin toss.",
    ),
    "average_precision": (
        "Average precision (AP)",
        "How purely the top of the list, sorted by score, holds defective images.",
    ),
    "average_precision_at_2_percent": (
        "Average precision if 2\u00a0% were defective",
        "Average precision of a line on which defects are rare.",
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
        "Share of good parts that would be called defective. One odd defect decides it. Lower is "
        "better.",
    ),
    "image_auroc_rare": ("Image AUROC with few defects", _RARE),
    "average_precision_rare": ("Average precision with few defects", _RARE),
    "f1_max_rare": ("Best F1 with few defects", _RARE),
    "pixel_auroc": (
        "Separation of defective spots (pixel AUROC)",
        "The first figure for pixels; large defects outweigh small ones.",
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
    """The page of an evaluation, see `page.render`."""
    categories = [_category(category) for category in data.categories]
    return page.render(
        "evaluation.html.j2",
        data=data,
        record=data.record,
        categories=categories,
        totals=_sum(c["counts"] for c in categories),
        with_masks=any(c.get("aupro") for c in categories),
        teachers=sorted({one.facts["teacher"] for one in data.categories if not one.failure}),
        archived=_sum(data.archive.counts.values()) if data.archive else None,
        config=data.record["config"],
    )


def _category(category: Category) -> dict[str, Any]:
    """Values of the template for a category."""
    facts = category.facts
    view: dict[str, Any] = {
        "name": category.name,
        "anchor": f"category-{category.name}",
        "data": category,
        "counts": (0, 0, 0),
    }
    if category.failure:
        return view
    scored, errors = category.scored, category.errors
    scores, gt_labels = scored["image_score"].to_numpy(), scored["gt_label"].to_numpy()
    headline = scored["headline"].to_numpy(zero_copy_only=False).astype(bool)
    defects = np.array(scored["defect"].to_pylist(), dtype=np.object_)
    called = scores > facts["threshold"]
    good, bad = headline & (gt_labels == 0), headline & (gt_labels == 1)
    overall = {row["metric"]: row for row in category.metrics if row["defect"] is None}
    # Over all pixels the largest kind of defect decides alone; the mean over the kinds says more.
    means = {row["metric"]: row for row in category.metrics if row["defect"] == MEAN}
    left_out = [row["value"] for row in category.metrics if row["metric"] == LEFT_OUT]
    view |= {
        "counts": (int((~called).sum()), int(called.sum()), errors.num_rows),
        "found": _share(called, bad),
        "false_calls": _share(called, good),
        "image_auroc": overall.get("image_auroc"),
        "aupro": means.get("aupro", overall.get("aupro")),
        "figures": _figures(overall.values()),
        "without_gt_mask": sum(int(value or 0) for value in left_out),
        "apart": sorted(set(defects[~headline].tolist())),
        "errors": errors.slice(0, ERRORS_SHOWN).to_pylist(),
        "histogram": None,
        "roc": None,
        **_by_defect(category.metrics, defects, called),
    }
    if len(scores):
        kinds = (
            ("good", charts.GOOD_COLOUR, "", good),
            ("defective", charts.DEFECTIVE_COLOUR, "/", bad),
            ("reported apart", charts.APART_COLOUR, ".", ~headline),
        )
        series = [charts.Series(name, look, hatch, scores[by]) for name, look, hatch, by in kinds]
        threshold = facts["threshold"]
        view["histogram"] = charts.histogram(series, threshold=threshold)
        view["roc"] = charts.roc(scores[headline], gt_labels[headline], threshold=threshold)
    usual = page.usual((*category.highest, *category.nearest))
    for name in ("highest", "nearest"):
        view[name] = [_card(one, usual) for one in getattr(category, name)]
    return view


def _figures(rows: Iterable[Row]) -> list[tuple[str, str, Row]]:
    """Title, words and row of each metric in the page's order; those without words come last."""
    order = {name: n for n, name in enumerate(METRIC_WORDS)}
    ranked = sorted(rows, key=lambda row: (order.get(row["metric"], len(order)), row["metric"]))
    return [(*METRIC_WORDS.get(row["metric"], (row["metric"], "")), row) for row in ranked]


def _by_defect(
    metrics: Sequence[Row], defects: NDArray[np.object_], called: NDArray[np.bool_]
) -> dict[str, Any]:
    rows = {(row["defect"], row["metric"]): row for row in metrics if row["defect"] is not None}
    names = [name for name in METRIC_WORDS if any(metric == name for _, metric in rows)]
    return {
        "defect_titles": [_SHORT.get(name, name) for name in names],
        "defects": [
            (defect, _share(called, defects == defect), [rows.get((defect, n)) for n in names])
            for defect in sorted({one for one, _ in rows}, key=lambda one: (one == MEAN, one))
        ],
    }


def _card(image: ScoredImage, usual: float) -> dict[str, Any]:
    row = image.row
    # An image with an unsure label is neither missed nor a false call.
    remarks = {(False, 1): "missed", (True, 0): "false call"}
    remark = remarks.get((row["is_anomalous"], row["gt_label"]), "") if row["headline"] else ""
    return page.card(
        image,
        {
            "score": page.score(row["image_score"]),
            "p-value": "unknown" if row["p_value"] is None else page.figure(row["p_value"]),
            "truth": "unknown" if row["gt_label"] is None else row["defect"],
        },
        usual=usual,
        verdict="NOK" if row["is_anomalous"] else "OK",
        wrong=remark,
    )


def _sum(counts: Iterable[Counts]) -> Counts:
    ok, nok, error = (sum(numbers) for numbers in zip((0, 0, 0), *counts, strict=True))
    return ok, nok, error


def _share(called: NDArray[np.bool_], among: NDArray[np.bool_]) -> Share:
    return Share(int(called[among].sum()), int(among.sum()))
