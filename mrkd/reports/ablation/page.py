"""The page of a study: its tables with intervals, beside the published figures, and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mrkd.evaluation.category_metrics import MEAN
from mrkd.evaluation.published_results import Figure
from mrkd.reports.ablation import charts
from mrkd.reports.ablation.values import (
    ArmData,
    Place,
    ShownMap,
    ShownTable,
    StudyCategory,
    StudyData,
    TableData,
)
from mrkd.reports.evaluation.page import leak_view
from mrkd.reports.kit import page, pictures
from mrkd.reports.kit.values import MetricRow

COLUMNS = {
    ("image_auroc", None): "image AUROC",
    ("pixel_auroc", None): "pixel AUROC",
    ("aupro", None): "AUPRO",
    ("pixel_auroc", MEAN): "pixel AUROC, mean of kinds",
    ("aupro", MEAN): "AUPRO, mean of kinds",
}
"""Metric and defect of the columns of a table, with their titles."""

_COMPARED = (("image_auroc", None), ("aupro", MEAN))
"""Those of them in which arms are set against the table's base."""

_RARE = {
    "image_auroc_rare": "image AUROC",
    "average_precision_rare": "average precision",
    "f1_max_rare": "best F1",
}

PROTOCOLS = {
    "mvtec": "the layout and protocol of MVTec AD: good parts train, good and defective ones judge",
    "visa": "VisA's own split, one class at a time",
    "mtd": "whole parts on one side: no picture of a part that judges was trained on",
    "elpv": "whole blocks of cells on one side, cells that experts were unsure of reported apart",
    "cifar10_one_class": "one class is good, its 5,000 images train, all 10,000 test images judge",
}

MANY = 4
"""Categories from which on they are the rows of one table, their details folded away."""


def study_page(data: StudyData) -> str:
    """The whole page as HTML that stands alone: it reads no other file and asks no network."""
    return page.render(
        "study.html.j2",
        run=data.run,
        protocol=data.protocol,
        protocol_words=PROTOCOLS[data.protocol],
        root=data.root,
        part=data.part,
        num_seeds=data.num_seeds,
        finished_at=data.finished_at,
        tables=[_table(table, data) for table in data.tables],
        categories=[
            _category(category) | _by_defect(data.tables[0], category.name)
            for category in data.categories
        ],
        failures=data.failures,
        teachers=data.teachers,
        teacher_names=data.teachers,
        config=data.config,
    )


def columns_of(table: TableData, *places: Place) -> dict[tuple[str, str | None], str]:
    """The columns that any arm has a figure in, in any of these places."""
    there = {
        name
        for arm in table.arms
        for place in places
        for name, row in arm.figures.get(place, {}).items()
        if row.value is not None
    }
    return {name: title for name, title in COLUMNS.items() if name in there}


def compared_in(table: TableData, place: Place) -> dict[tuple[str, str | None], str]:
    """The columns of differences that any arm has one in, in a place."""
    return {
        name: f"against {table.base}: {COLUMNS[name]}"
        for name in _COMPARED
        if any(name in arm.differences.get(place, {}) for arm in table.arms)
    }


def places_of(table: TableData, categories: Sequence[str]) -> list[Place]:
    """The mean over categories first, where there is one."""
    has_mean = any(None in arm.figures for arm in table.arms)
    return [*([None] if has_mean else []), *categories]


def by_category(
    table: TableData, column: tuple[str, str | None], categories: Sequence[str]
) -> list[tuple[str, list[MetricRow | None]]]:
    """Each category with that figure of every arm."""
    return [
        (name, [arm.figures.get(name, {}).get(column) for arm in table.arms]) for name in categories
    ]


def published_text(figures: Mapping[str, Figure]) -> str:
    """A triple as papers print it."""
    metrics = [name for name, _ in COLUMNS if name in figures]
    return " / ".join(f"{100 * figures[name].value:.1f}" for name in dict.fromkeys(metrics))


def footnotes(table: TableData) -> list[str]:
    """Why published figures are not comparable; what holds of all arms that have some, once."""
    beside = [arm for arm in table.arms if arm.published]
    texts = dict.fromkeys(text for arm in beside for text in arm.differs)
    found = []
    for text in texts:
        arms = [arm.name for arm in beside if text in arm.differs]
        found.append(text if len(arms) == len(beside) else f"{', '.join(arms)}: {text}")
    return found


def _table(table: TableData, data: StudyData) -> dict[str, Any]:
    names = [category.name for category in data.categories]
    return {
        "name": table.name,
        "title": table.title,
        "paper": table.paper,
        "base": table.base,
        "places": [_place(table, place, len(names)) for place in places_of(table, names)],
        "by_category": by_category(table, ("image_auroc", None), names)
        if len(names) >= MANY
        else [],
        "has_published": any(arm.published for arm in table.arms) or bool(table.quoted),
        "quoted": quoted(table.quoted),
        "footnotes": footnotes(table),
        "remarks": sorted({one.remark for one in all_published(table) if one.remark}),
        "sources": sorted({one.source for one in all_published(table)}),
        "curve": charts.curve(table, names) if table.name == "mask_rate" else None,
        "losses": [
            (name, charts.losses(table, name))
            for name in names
            if any(name in arm.losses for arm in table.arms)
        ],
    }


def _place(table: TableData, place: Place, num_categories: int) -> dict[str, Any]:
    columns, compared = columns_of(table, place), compared_in(table, place)
    return {
        "name": place or f"mean of {num_categories} categories",
        "columns": [*columns.values(), *compared.values()],
        "rows": [_row(arm, place, columns, compared) for arm in table.arms],
        "has_published": any(arm.published.get(place) for arm in table.arms),
        "folded": place is not None and num_categories >= MANY,
    }


def _row(
    arm: ArmData,
    place: Place,
    columns: Iterable[tuple[str, str | None]],
    compared: Iterable[tuple[str, str | None]],
) -> dict[str, Any]:
    figures, differences = arm.published.get(place, {}), arm.differences.get(place, {})
    return {
        "name": arm.name,
        "cells": [arm.figures.get(place, {}).get(name) for name in columns],
        "differences": [differences.get(name) for name in compared],
        "published": published_text(figures),
        "comparable": bool(figures) and not arm.differs,
        "plateau": arm.plateau,
        "seconds": arm.seconds,
        "model_bytes": arm.model_bytes,
    }


def all_published(table: TableData) -> Iterator[Figure]:
    """Every figure of others that stands in a table or below it."""
    yield from table.quoted
    for arm in table.arms:
        for figures in arm.published.values():
            yield from figures.values()


def quoted(figures: Sequence[Figure]) -> list[dict[str, str]]:
    """What others published of arms that were not run: arm, backbone, text."""
    names = dict.fromkeys((one.arm, one.backbone) for one in figures)
    return [
        {
            "arm": arm,
            "backbone": backbone,
            "text": published_text(
                {one.metric: one for one in figures if (one.arm, one.backbone) == (arm, backbone)}
            ),
        }
        for arm, backbone in names
    ]


def _category(category: StudyCategory) -> dict[str, Any]:
    kinds = dict.fromkeys(one.defect for one in category.shown)
    return {
        "name": category.name,
        "anchor": f"category-{category.name}",
        "num_train": category.num_train,
        "num_judged": category.num_judged,
        "operating": category.operating,
        "rare": [(_RARE[row["metric"]], row) for row in category.rare],
        "has_costs": any(row["cost_in_10000"] is not None for row in category.operating),
        "arms": [one.arm for one in category.shown[0].maps] if category.shown else [],
        "has_masks": any(one.aupro is not None for one in category.shown),
        "kinds": [
            {
                "name": kind,
                "pictures": [
                    _picture(one, f"{category.name}-{n}")
                    for n, one in enumerate(category.shown)
                    if one.defect == kind
                ],
            }
            for kind in kinds
        ],
        "leaks": [leak_view(pair) for pair in category.leaks],
        "num_leaks": category.num_leaks,
    }


def _by_defect(table: TableData, category: str) -> dict[str, Any]:
    """Figures of each kind of defect, by arms of the first table."""
    of_arms = [arm.figures.get(category, {}) for arm in table.arms]
    kinds = sorted(
        {defect for figures in of_arms for _, defect in figures if defect not in (None, MEAN)}
    )
    metrics = [
        metric
        for metric in ("image_auroc", "pixel_auroc", "aupro")
        if any((metric, kind) in figures for figures in of_arms for kind in kinds)
    ]
    return {
        "defect_words": " / ".join(COLUMNS[metric, None] for metric in metrics),
        "defect_arms": [arm.name for arm in table.arms],
        "defects": [
            (kind, [[figures.get((metric, kind)) for metric in metrics] for figures in of_arms])
            for kind in kinds
        ],
    }


def _picture(shown: ShownTable, name: str) -> dict[str, Any]:
    size = {"height": shown.height, "width": shown.width}
    return size | {
        "id": f"picture-{name}",
        "uri": shown.image_uri,
        "name": PurePosixPath(shown.image_uri).name,
        "place": shown.place,
        "aupro": shown.aupro,
        "jpeg": None if shown.pixels is None else pictures.jpeg_uri(shown.pixels),
        "truth": "" if shown.gt_mask is None else pictures.outline(shown.gt_mask, **size),
        "map_box": shown.map_box,
        "maps": [_map(one, shown) for one in shown.maps],
    }


def _map(one: ShownMap, shown: ShownTable) -> dict[str, Any]:
    return {
        "arm": one.arm,
        "score": page.score(one.image_score),
        "verdict": "NOK" if one.is_anomalous else "OK",
        "heat": pictures.heat_uri(one.anomaly_map, low=one.usual, high=one.pixel_threshold),
        "contour": _contour(one, shown),
    }


def _contour(one: ShownMap, shown: ShownTable) -> str:
    """Where the map crosses the arm's pixel threshold, as a path over the original's pixels."""
    box = shown.map_box
    above = _at_size(one.anomaly_map, 256) > one.pixel_threshold
    scale_y, scale_x = above.shape[0] / box.height, above.shape[1] / box.width
    top, left = round(-box.y * scale_y), round(-box.x * scale_x)
    inner = above[
        top : top + round(shown.height * scale_y), left : left + round(shown.width * scale_x)
    ]
    return pictures.outline(inner, height=shown.height, width=shown.width)


def _at_size(anomaly_map: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    height, width = anomaly_map.shape
    factor = max(1.0, side / max(height, width))
    size = (round(width * factor), round(height * factor))
    return np.asarray(cv2.resize(anomaly_map, size, interpolation=cv2.INTER_LINEAR), np.float32)
