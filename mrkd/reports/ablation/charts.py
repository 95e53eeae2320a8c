"""The charts of a study's page, as `charts.py` has them."""

from __future__ import annotations

from collections.abc import Sequence

from mrkd.reports.ablation.values import TableData
from mrkd.reports.kit.charts import (
    APART_COLOUR,
    DEFECTIVE_COLOUR,
    GOOD_COLOUR,
    HELD_OUT_COLOUR,
    THRESHOLD_COLOUR,
    Spec,
    layout_of,
    short,
)

_COLOURS = (GOOD_COLOUR, DEFECTIVE_COLOUR, HELD_OUT_COLOUR, THRESHOLD_COLOUR, APART_COLOUR)
_DASHES = ("solid", "dot", "dash")


def curve(table: TableData, categories: Sequence[str]) -> Spec:
    """Image AUROC over the number that names each arm, with 95 % intervals, a line a category."""
    data: list[Spec] = []
    for n, category in enumerate(categories):
        found: list[tuple[float, float, float, float]] = []
        for arm in table.arms:
            row = arm.figures.get(category, {}).get(("image_auroc", None))
            if row is not None and row.value is not None:
                low, high = row.low or row.value, row.high or row.value
                found.append((float(arm.name), row.value, low, high))
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": category,
                "x": [x for x, *_ in found],
                "y": [short(value) for _, value, _, _ in found],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [short(high - value) for _, value, _, high in found],
                    "arrayminus": [short(value - low) for _, value, low, _ in found],
                },
                "line": {"color": _COLOURS[n % len(_COLOURS)], "width": 2},
                "hovertemplate": f"{category}, %{{x}}: %{{y:.3f}}<extra></extra>",
            }
        )
    return {"data": data, "layout": layout_of(table.title.lower(), "image AUROC")}


def losses(table: TableData, category: str) -> Spec:
    """The training loss of each arm by step, mean over seeds; small."""
    data: list[Spec] = []
    for n, arm in enumerate(arm for arm in table.arms if category in arm.losses):
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": arm.name,
                "x": list(arm.steps[category]),
                "y": [short(value) for value in arm.losses[category]],
                "line": {
                    "color": _COLOURS[n % len(_COLOURS)],
                    "dash": _DASHES[n // len(_COLOURS) % len(_DASHES)],
                    "width": 2,
                },
                "hovertemplate": f"{arm.name}, step %{{x}}: %{{y:.4g}}<extra></extra>",
            }
        )
    spec = layout_of("step", "training loss", small=True)
    values = [y for trace in data for y in trace["y"]]
    if values and min(values) > 0:
        every = "D1" if max(values) < 5 * min(values) else "D2"
        spec["yaxis"] |= {"type": "log", "dtick": every, "tickformat": ".2~g"}
    return {"data": data, "layout": spec}
