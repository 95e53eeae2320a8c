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
    short,
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
    """The training loss of each variant by step, mean over seeds; small."""
    data: list[Spec] = []
    for n, one in enumerate(one for one in table.variants if category in one.losses):
        steps, values = one.losses[category]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": one.name,
                "x": steps,
                "y": [short(value) for value in values],
                "line": {
                    "color": _COLOURS[n % len(_COLOURS)],
                    "dash": _DASHES[n // len(_COLOURS) % len(_DASHES)],
                    "width": 2,
                },
                "hovertemplate": f"{one.name}, step %{{x}}: %{{y:.4g}}<extra></extra>",
            }
        )
    spec = layout_of("step", "training loss", small=True)
    shown = [y for trace in data for y in trace["y"]]
    if shown and min(shown) > 0:
        every = "D1" if max(shown) < 5 * min(shown) else "D2"
        spec["yaxis"] |= {"type": "log", "dtick": every, "tickformat": ".2~g"}
    return {"data": data, "layout": spec}
