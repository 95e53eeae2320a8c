"""Charts of a search as plain plotly specs, see `charts.py`.

Parallel coordinates are drawn as lines: plotly's own need WebGL compiled at run time, which the
page's policy forbids.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from mrkd.reports.kit.charts import (
    APART_COLOUR,
    DEFECTIVE_COLOUR,
    GOOD_COLOUR,
    THRESHOLD_COLOUR,
    Spec,
    layout_of,
    loss_axis,
    short,
    trace,
)
from mrkd.training.search import Trial
from mrkd.training.search.effects import Effect, Part, label

MOST_LINES = 150
"""Configs in parallel coordinates and learning curves, the best first."""


def parallel(
    configs: Sequence[Mapping[str, Any]],
    objectives: Sequence[float],
    *,
    log_keys: Collection[str],
    metric: str,
) -> Spec:
    """A line a config through its values to its objective; the best fifth is highlighted.

    Args:
        configs: values by key, all with the same keys.
        objectives: objective of each config.
        log_keys: keys that are drawn on a log scale.
        metric: name of the objective.
    """
    keys = [*configs[0], metric]
    columns = [[one[key] for one in configs] for key in configs[0]] + [list(objectives)]
    axes = [
        _Axis(column, is_log=key in log_keys) for key, column in zip(keys, columns, strict=True)
    ]
    best = set(np.argsort(objectives)[-max(1, len(objectives) // 5) :].tolist())
    order = [n for n in range(len(configs)) if n not in best] + sorted(best)
    looks = (("others", APART_COLOUR, 1, 0.45), ("best fifth", THRESHOLD_COLOUR, 2, 0.9))
    data: list[Spec] = []
    for n in order[-MOST_LINES:]:
        words = "<br>".join(f"{k} {text_of(c[n])}" for k, c in zip(keys, columns, strict=True))
        name, colour, width, opacity = looks[n in best]
        data.append(
            trace(
                name,
                range(len(keys)),
                [short(axis.position(c[n])) for axis, c in zip(axes, columns, strict=True)],
                words,
                showlegend=n in (order[0], order[-1]),
                line={"color": colour, "width": width},
                opacity=opacity,
            )
        )
    spec = layout_of("", "")
    spec["xaxis"] |= {
        "tickvals": list(range(len(keys))),
        "ticktext": [key.rpartition(".")[2].replace("_", " ") for key in keys],
        "range": [-0.15, len(keys) - 0.5],
    }
    spec["yaxis"] |= {"visible": False, "range": [-0.06, 1.06]}
    spec["annotations"] = [
        # Above the lines that end there.
        {"x": n, "y": position, "text": text, "showarrow": False, "xanchor": "left"}
        | {"xshift": 4, "yshift": 8}
        for n, axis in enumerate(axes)
        for position, text in axis.ticks()
    ]
    spec["shapes"] = [
        {"type": "line", "x0": n, "x1": n, "y0": 0, "y1": 1, "line": {"color": APART_COLOUR}}
        for n in range(len(keys))
    ]
    return {"data": data, "layout": spec | {"height": 320}}


def response(
    effect: Effect, column: Sequence[Any], objectives: Sequence[float], *, metric: str
) -> Spec:
    """The objective over a key: each trial, the mean of each part and its 95 % band; small.

    Args:
        effect: effect of the key.
        column: value of the key in each trial.
        objectives: objective of each trial.
        metric: name of the objective.
    """
    title = effect.key.rpartition(".")[2].replace("_", " ")
    ranges = effect.parts[0].low is not None
    data: list[Spec] = []
    judged = [part for part in effect.parts if math.isfinite(part.error)]
    x = [_middle(part, effect.is_log) for part in judged]
    means, errors = [part.mean for part in judged], [1.96 * part.error for part in judged]
    if ranges:
        upper = [m + e for m, e in zip(means, errors, strict=True)]
        lower = [m - e for m, e in zip(means, errors, strict=True)]
        band = [short(v) for v in [*upper, *lower[::-1]]]
        look: Spec = {"fill": "toself", "line": {"width": 0}, "fillcolor": GOOD_COLOUR}
        data.append(trace("95 % band", [*x, *x[::-1]], band, opacity=0.2, **look))
    data.append(
        trace(
            "trials",
            column if ranges else [label(value) for value in column],
            [short(value) for value in objectives],
            f"{title} %{{x}}: %{{y:.3f}}",
            mode="markers",
            marker={"color": APART_COLOUR, "size": 6},
        )
    )
    mean = trace(
        "mean",
        x,
        [short(value) for value in means],
        "mean %{y:.3f}",
        mode="lines+markers" if ranges else "markers",
        marker={"color": GOOD_COLOUR, "size": 8, "symbol": "diamond"},
        line={"color": GOOD_COLOUR, "width": 2},
    )
    if not ranges:
        mean["error_y"] = {"array": [short(e) for e in errors], "color": GOOD_COLOUR}
    data.append(mean)
    spec = layout_of(title, metric.replace("_", " "), small=True)
    if not ranges:
        spec["xaxis"] |= {"categoryorder": "category ascending"}
    elif effect.is_log:
        spec["xaxis"] |= {"type": "log", "dtick": "D2", "tickformat": ".1~g"}
    return {"data": data, "layout": spec | {"height": 240}}


def importance(shares: Mapping[str, float]) -> Spec:
    """Share of the objective's variance that each key explains, as bars."""
    keys = list(shares)[::-1]
    bars: Spec = {
        "type": "bar",
        "orientation": "h",
        "x": [short(shares[key]) for key in keys],
        "y": [key.rpartition(".")[2].replace("_", " ") for key in keys],
        "marker": {"color": GOOD_COLOUR},
        "hovertemplate": "%{y}: %{x:.0%}<extra></extra>",
    }
    spec = layout_of("share of the variance", "", small=True)
    spec["xaxis"] |= {"tickformat": ".0%", "range": [0, 1]}
    return {"data": [bars], "layout": spec | {"showlegend": False}}


def learning(trials: Sequence[Trial], objectives: Mapping[str, float]) -> Spec:
    """The validation loss of each trial by epoch; those that were ended at a rung are grey.

    Args:
        trials: trials of one category.
        objectives: objective by config of those that came to their end.
    """
    shown = sorted(trials, key=lambda one: objectives.get(one.key, -1.0))[-MOST_LINES:]
    best = shown[-1].key if shown and shown[-1].key in objectives else ""
    data: list[Spec] = []
    named: set[str] = set()
    for one in shown:
        done = one.key in objectives
        name = "best" if one.key == best else "finished" if done else "ended early"
        colours = {"best": THRESHOLD_COLOUR, "finished": GOOD_COLOUR, "ended early": APART_COLOUR}
        rows = [row for row in one.rows if row.get("validation_loss") is not None]
        data.append(
            trace(
                name,
                [row["epoch"] + 1 for row in rows],
                [short(row["validation_loss"]) for row in rows],
                f"{one.key}, epoch %{{x}}: %{{y:.4g}}",
                mode="lines+markers",
                showlegend=name not in named,
                line={"color": colours[name], "width": 3 if name == "best" else 1},
                marker={"size": 5},
                opacity=0.9 if name == "best" else 0.55,
            )
        )
        named.add(name)
    spec = layout_of("epoch", "validation loss")
    spec["yaxis"] |= loss_axis(data)
    return {"data": data, "layout": spec}


def pareto(
    costs: Sequence[float],
    objectives: Sequence[float],
    names: Sequence[str],
    *,
    title: str,
    metric: str,
) -> Spec:
    """Objective against cost, with the line of the configs that none beats in both; small.

    Args:
        costs: cost of each config; less is better.
        objectives: objective of each config.
        names: name of each config.
        title: title of the cost.
        metric: name of the objective.
    """
    front, best = [], -math.inf
    for n in sorted(range(len(costs)), key=lambda n: (costs[n], -objectives[n])):
        if objectives[n] > best:
            front.append(n)
            best = objectives[n]
    x, y = [short(value) for value in costs], [short(value) for value in objectives]
    data = [
        trace(
            "configs",
            x,
            y,
            "%{text}: %{x:.3g}, %{y:.3f}",
            mode="markers",
            text=list(names),
            marker={"color": APART_COLOUR, "size": 6},
        ),
        trace(
            "none is better in both",
            [x[n] for n in front],
            [y[n] for n in front],
            mode="lines+markers",
            line={"color": DEFECTIVE_COLOUR, "width": 2, "shape": "hv"},
            marker={"color": DEFECTIVE_COLOUR, "size": 8, "symbol": "diamond"},
        ),
    ]
    spec = layout_of(title, metric.replace("_", " "), small=True)
    return {"data": data, "layout": spec | {"height": 240}}


class _Axis:
    """Positions of a column's values between 0 and 1."""

    def __init__(self, column: Sequence[Any], *, is_log: bool) -> None:
        self._log = is_log
        self._numeric = all(isinstance(value, float) for value in column)
        if self._numeric:
            self._low, self._high = min(column), max(column)
        else:
            self._names = sorted({label(value) for value in column})

    def position(self, value: Any) -> float:
        """The position of a value."""
        if not self._numeric:
            return self._names.index(label(value)) / max(1, len(self._names) - 1)
        low, high = self._scaled(self._low), self._scaled(self._high)
        return (self._scaled(value) - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """Positions with their labels."""
        if self._numeric:
            ends = [self._low, self._high] if self._low < self._high else [self._low]
            return [(self.position(value), text_of(value)) for value in ends]
        return [(self.position(name), name) for name in self._names]

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self._log else value


def _middle(part: Part, is_log: bool) -> float | str:
    if part.low is None or part.high is None:
        return part.label
    return math.sqrt(part.low * part.high) if is_log else (part.low + part.high) / 2


def text_of(value: Any) -> str:
    """A value of a key; a number with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else label(value)
