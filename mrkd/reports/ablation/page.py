"""The page of an ablation: its tables with intervals, beside the published figures, and images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mrkd.evaluation.category_metrics import MEAN
from mrkd.evaluation.published_results import Figure
from mrkd.reports.ablation import charts
from mrkd.reports.ablation.load import CategoryData, Name, Scope, StudyData, TableData
from mrkd.reports.kit import page, pictures
from mrkd.reports.kit.values import Row, ScoredImage

COLUMNS = {
    ("image_auroc", None): "image AUROC",
    ("pixel_auroc", None): "pixel AUROC",
    ("aupro", None): "AUPRO",
    ("pixel_auroc", MEAN): "pixel AUROC, mean of kinds",
    ("aupro", MEAN): "AUPRO, mean of kinds",
}
"""Metric and defect of the columns of a table, with their titles."""

_COMPARED = (("image_auroc", None), ("aupro", MEAN))
"""The columns in which variants are compared with the table's base."""

_RARE = {
    "image_auroc_rare": "image AUROC",
    "average_precision_rare": "average precision",
    "f1_max_rare": "best F1",
}

PROTOCOLS = {
    "mvtec": "the layout and protocol of MVTec AD: good parts train, good and defective ones judge",
    "visa": "VisA's own split, one class at a time",
    "mtd": "whole parts on one side: no image of a part that judges was trained on",
    "elpv": "whole blocks of cells on one side, cells that experts were unsure of reported apart",
    "cifar10_one_class": "one class is good, its 5,000 images train, all 10,000 test images judge",
}

MANY = 4
"""Categories from which on they are the rows of one table, their details folded away."""


def study_page(data: StudyData) -> str:
    """The page of an ablation, see `page.render`."""
    config = data.config
    return page.render(
        "study.html.j2",
        data=data,
        record=data.record,
        evaluation=config,
        protocol_words=PROTOCOLS[config.protocol],
        tables=[_table(table, data) for table in data.tables],
        categories=[_category(category, data.tables[0]) for category in data.categories],
        rare=_RARE,
        contour=_contour,
        teachers=data.teachers,
        config=data.record["config"],
    )


def columns_of(table: TableData, *scopes: Scope) -> dict[Name, str]:
    """The columns that any variant has a figure in, in any of these scopes."""
    there = {
        name
        for one in table.variants
        for scope in scopes
        for name, row in one.figures.get(scope, {}).items()
        if row["value"] is not None
    }
    return {name: title for name, title in COLUMNS.items() if name in there}


def compared_in(table: TableData, scope: Scope) -> dict[Name, str]:
    """The columns of differences that any variant has one in, in a scope."""
    return {
        name: f"against {table.base}: {COLUMNS[name]}"
        for name in _COMPARED
        if any(name in one.differences.get(scope, {}) for one in table.variants)
    }


def scopes_of(table: TableData, categories: Sequence[str]) -> list[Scope]:
    """The mean over categories first, where there is one."""
    has_mean = any(None in one.figures for one in table.variants)
    return [*([None] if has_mean else []), *categories]


def by_category(
    table: TableData, column: Name, categories: Sequence[str]
) -> list[tuple[str, list[Row | None]]]:
    """Each category with that figure of every variant."""
    return [
        (name, [one.figures.get(name, {}).get(column) for one in table.variants])
        for name in categories
    ]


def published_text(figures: Mapping[str, Figure]) -> str:
    """A triple as papers print it."""
    metrics = [name for name, _ in COLUMNS if name in figures]
    return " / ".join(f"{100 * figures[name].value:.1f}" for name in dict.fromkeys(metrics))


def footnotes(table: TableData) -> list[str]:
    """Reasons why published figures are not comparable; a reason of all variants has no names."""
    beside = [one for one in table.variants if one.published]
    found = []
    for text in dict.fromkeys(text for one in beside for text in one.differs):
        names = [one.name for one in beside if text in one.differs]
        found.append(text if len(names) == len(beside) else f"{', '.join(names)}: {text}")
    return found


def _table(table: TableData, data: StudyData) -> dict[str, Any]:
    names = [category.name for category in data.categories]
    published = list(all_published(table))
    return {
        "data": table,
        "scopes": [_scope(table, scope, len(names)) for scope in scopes_of(table, names)],
        "by_category": (
            by_category(table, ("image_auroc", None), names) if len(names) >= MANY else []
        ),
        "quoted": quoted(table.quoted),
        "footnotes": footnotes(table),
        "remarks": sorted({one.remark for one in published if one.remark}),
        "sources": sorted({one.source for one in published}),
        "curve": charts.curve(table, names) if table.name == "mask_rate" else None,
        "losses": [
            (name, charts.losses(table, name))
            for name in names
            if any(name in one.losses for one in table.variants)
        ],
    }


def _scope(table: TableData, scope: Scope, num_categories: int) -> dict[str, Any]:
    columns, compared = columns_of(table, scope), compared_in(table, scope)
    return {
        "name": scope or f"mean of {num_categories} categories",
        "columns": [*columns.values(), *compared.values()],
        "rows": [
            {
                "variant": one,
                "cells": [one.figures.get(scope, {}).get(name) for name in columns],
                "differences": [one.differences.get(scope, {}).get(name) for name in compared],
                "published": published_text(one.published.get(scope, {})),
            }
            for one in table.variants
        ],
        "has_published": any(one.published.get(scope) for one in table.variants),
        "folded": scope is not None and num_categories >= MANY,
    }


def all_published(table: TableData) -> Iterator[Figure]:
    """Every published figure in a table or below it."""
    yield from table.quoted
    for one in table.variants:
        for figures in one.published.values():
            yield from figures.values()


def quoted(figures: Sequence[Figure]) -> list[tuple[str, str, str]]:
    """Published figures of variants that were not run: variant, backbone, text."""
    by_name: dict[tuple[str, str], dict[str, Figure]] = {}
    for one in figures:
        by_name.setdefault((one.arm, one.backbone), {})[one.metric] = one
    return [(*name, published_text(own)) for name, own in by_name.items()]


def _category(category: CategoryData, first: TableData) -> dict[str, Any]:
    """Values of the template for a category, with the first table's figures by kind of defect."""
    figures = [one.figures.get(category.name, {}) for one in first.variants]
    kinds = sorted({kind for own in figures for _, kind in own if kind not in (None, MEAN)})
    metrics = [
        metric
        for metric in ("image_auroc", "pixel_auroc", "aupro")
        if any((metric, kind) in own for own in figures for kind in kinds)
    ]
    return {
        "data": category,
        "name": category.name,
        "anchor": f"category-{category.name}",
        "variants": [one.variant for one in category.shown[0].maps] if category.shown else [],
        "has_masks": any(one.aupro is not None for one in category.shown),
        "defect_words": " / ".join(COLUMNS[metric, None] for metric in metrics),
        "defect_variants": [one.name for one in first.variants],
        "defects": [
            (kind, [[own.get((metric, kind)) for metric in metrics] for own in figures])
            for kind in kinds
        ],
    }


def _contour(anomaly_map: NDArray[np.float32], threshold: float, image: ScoredImage) -> str:
    """The line on which a map crosses a threshold, as a path over the image's original pixels."""
    box, row = image.map_box, image.row
    assert box is not None
    factor = max(1.0, 256 / max(anomaly_map.shape))
    side_y, side_x = (round(side * factor) for side in anomaly_map.shape)
    above = cv2.resize(anomaly_map, (side_x, side_y), interpolation=cv2.INTER_LINEAR) > threshold
    scale_y, scale_x = above.shape[0] / box.height, above.shape[1] / box.width
    top, left = round(-box.y * scale_y), round(-box.x * scale_x)
    height, width = row["image_height"], row["image_width"]
    inner = above[top : top + round(height * scale_y), left : left + round(width * scale_x)]
    return pictures.outline(np.asarray(inner, bool), height=height, width=width)
