"""Charts of an ablation's page as plain plotly specs, see `kit/charts.py`."""

from __future__ import annotations

from collections.abc import Sequence

from mrkd.reports.ablation.load import TableData
from mrkd.reports.kit.charts import (
    APART_COLOUR,
    DEFECTIVE_COLOUR,
    GOOD_COLOUR,
    HELD_OUT_COLOUR,
    THRESHOLD_COLOUR,
    Spec,
    layout_of,
    loss_axis,
    short,
    trace,
)

_COLOURS = (GOOD_COLOUR, DEFECTIVE_COLOUR, HELD_OUT_COLOUR, THRESHOLD_COLOUR, APART_COLOUR)
_DASHES = ("solid", "dot", "dash")


def curve(table: TableData, categories: Sequence[str]) -> Spec:
    """Image AUROC over the number that names each variant, with 95 % intervals, by category."""
    data: list[Spec] = []
    for n, category in enumerate(categories):
        found: list[tuple[float, float, float, float]] = []
        for one in table.variants:
            row = one.figures.get(category, {}).get(("image_auroc", None))
            if row is not None and row["value"] is not None:
                value = row["value"]
                low, high = row["low"] or value, row["high"] or value
                found.append((float(one.name), value, low, high))
        bars = {
            "type": "data",
            "symmetric": False,
            "array": [short(high - value) for _, value, _, high in found],
            "arrayminus": [short(value - low) for _, value, low, _ in found],
        }
        data.append(
            trace(
                category,
                [x for x, *_ in found],
                [short(value) for _, value, _, _ in found],
                f"{category}, %{{x}}: %{{y:.3f}}",
                mode="lines+markers",
                error_y=bars,
                line={"color": _COLOURS[n % len(_COLOURS)], "width": 2},
            )
        )
    return {"data": data, "layout": layout_of(table.title.lower(), "image AUROC")}


def losses(table: TableData, category: str) -> Spec:
    """The training loss of each variant by step, mean over seeds; small."""
    data: list[Spec] = []
    for n, one in enumerate(one for one in table.variants if category in one.losses):
        steps, values = one.losses[category]
        dash = _DASHES[n // len(_COLOURS) % len(_DASHES)]
        data.append(
            trace(
                one.name,
                steps,
                [short(value) for value in values],
                f"{one.name}, step %{{x}}: %{{y:.4g}}",
                line={"color": _COLOURS[n % len(_COLOURS)], "dash": dash, "width": 2},
            )
        )
    spec = layout_of("step", "training loss", small=True)
    spec["yaxis"] |= loss_axis(data, narrow="D1")
    return {"data": data, "layout": spec}
