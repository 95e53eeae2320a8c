"""Charts as plain plotly specs: `{"data": [...], "layout": {...}}`, drawn by the page's one script.

Plain dicts, because `plotly.graph_objects` takes a second to import and adds 8 KB of template to
every figure; a test has it validate them. Text and grid take their colours from the page's CSS, so
that the charts follow a dark page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Spec = dict[str, Any]

# Blue and orange differ in brightness too, and defective bars are hatched: hue is not needed.
GOOD_COLOUR = "#3b7dd8"
DEFECTIVE_COLOUR = "#e8710a"
APART_COLOUR = "#8a8f98"
THRESHOLD_COLOUR = "#dc267f"
HELD_OUT_COLOUR = "#12908e"

_NUM_BINS = 40
_MAX_ROC_POINTS = 400
_MAX_EPOCHS = 200
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"


@dataclass(frozen=True)
class Series:
    """Scores of one kind of images, as bars of one look."""

    name: str
    colour: str
    hatch: str
    scores: NDArray[np.float32]


def histogram(
    series: Sequence[Series], *, threshold: float, share: bool = False, small: bool = False
) -> Spec:
    """Numbers of images by score, with the threshold as a line.

    Args:
        series: kinds of images; those without any are left out, one at least has some.
        threshold: threshold of the calibration.
        share: whether each bar is a share of its series, so that few are seen beside many.
        small: whether it is one of many charts beside each other.
    """
    series = [one for one in series if len(one.scores)]
    scores = np.concatenate([one.scores for one in series])
    num_bins = _NUM_BINS // 2 if small else _NUM_BINS
    edges = np.histogram_bin_edges(np.append(scores.astype(np.float64), threshold), num_bins)
    bars = [_bars(one, edges, share=share) for one in series]
    line: Spec = {
        "type": "scatter",
        "mode": "lines",
        "name": "threshold",
        "x": [threshold, threshold],
        "y": [0, max(max(bar["y"]) for bar in bars)],
        "line": {"color": THRESHOLD_COLOUR, "width": 2, "dash": "dash"},
        "cliponaxis": False,
        "hovertemplate": "threshold %{x:.4g}<extra></extra>",
    }
    layout = layout_of("image score", "share of images" if share else "images", small=small)
    if share:
        layout["yaxis"]["tickformat"] = ".0%"
    return {"data": [*bars, line], "layout": layout | {"barmode": "overlay", "bargap": 0.04}}


def losses(
    epochs: NDArray[np.int64], training: NDArray[np.float64], validation: NDArray[np.float64]
) -> Spec:
    """The two losses by epoch, and the epoch whose weights were kept; small.

    Args:
        epochs: `[n]`, n >= 1, rising.
        training: `[n]`; NaN where it was not a number.
        validation: `[n]`, on good images that no step used; the epoch with the least was kept.
    """
    kept = int(np.argmin(np.where(np.isfinite(validation), validation, np.inf)))
    shown = _spread(len(epochs), _MAX_EPOCHS)
    lines = [
        ("training", GOOD_COLOUR, "solid", training),
        ("validation", HELD_OUT_COLOUR, "dot", validation),
    ]
    data: list[Spec] = [
        {
            "type": "scatter",
            "mode": "lines" if len(shown) > 1 else "markers",
            "name": name,
            "x": epochs[shown].tolist(),
            "y": [short(value) for value in loss[shown]],
            "line": {"color": colour, "width": 2, "dash": dash},
            "hovertemplate": f"epoch %{{x}}, {name} %{{y:.4g}}<extra></extra>",
        }
        for name, colour, dash, loss in lines
    ]
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "kept",
            "x": [int(epochs[kept])],
            "y": [short(validation[kept])],
            "marker": {"color": THRESHOLD_COLOUR, "size": 9, "symbol": "diamond"},
            "hovertemplate": "epoch %{x} was kept, %{y:.4g}<extra></extra>",
        }
    )
    layout = layout_of("epoch", "loss", small=True)
    finite = np.concatenate([loss[np.isfinite(loss)] for *_, loss in lines])
    if (finite > 0).all():
        # Most of the fall is in the first epochs: on a plain scale the rest is one flat line.
        layout["yaxis"] |= {"type": "log", "dtick": "D2", "tickformat": ".2~g"}
    return {"data": data, "layout": layout}


def history(
    times: Sequence[str],
    values: Sequence[float | None],
    *,
    title: str,
    band: tuple[float, float, float] | None,
    share: bool = False,
) -> Spec:
    """A value night by night, the last one marked, over the range of nine nights in ten; small.

    Args:
        times: times of the nights, ISO 8601, rising; the last is the page's own night.
        values: a value for each night; None, a gap, where it is not known.
        title: title of the value.
        band: low end, median and high end; None with too few nights.
        share: whether the values are shares.
    """
    shown = [short(value) if share and value is not None else value for value in values]
    text = "%{y:.2~%}" if share else "%{y:,}"
    data: list[Spec] = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "nights before",
            "x": list(times[:-1]),
            "y": shown[:-1],
            "line": {"color": APART_COLOUR, "width": 1},
            "marker": {"color": APART_COLOUR, "size": 5},
            "hovertemplate": f"%{{x}}: {text}<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "this night",
            "x": [times[-1]],
            "y": [shown[-1]],
            "marker": {"color": THRESHOLD_COLOUR, "size": 9, "symbol": "diamond"},
            "hovertemplate": f"this night: {text}<extra></extra>",
        },
    ]
    layout = layout_of("", title, small=True)
    layout["xaxis"] |= {"type": "date", "nticks": 5}
    layout["yaxis"] |= {"rangemode": "tozero"} | ({"tickformat": ".2~%"} if share else {})
    if band:
        low, median, high = band
        across: Spec = {"xref": "paper", "x0": 0, "x1": 1, "layer": "below"}
        layout["shapes"] = [
            across
            | {"type": "rect", "y0": low, "y1": high, "fillcolor": GOOD_COLOUR}
            | {"opacity": 0.18, "line": {"width": 0}},
            across
            | {"type": "line", "y0": median, "y1": median}
            | {"line": {"color": GOOD_COLOUR, "width": 1, "dash": "dot"}},
        ]
    return {"data": data, "layout": layout}


def roc(
    scores: NDArray[np.float32], gt_labels: NDArray[np.int8], *, threshold: float
) -> Spec | None:
    """Share of defects found against share of good parts called defective, over all thresholds.

    Args:
        scores: float32 `[n]`.
        gt_labels: int8 `[n]`, 0 good, 1 anomalous.
        threshold: threshold of the calibration, marked on the curve.

    Returns:
        The chart; None where one of the two kinds is missing.
    """
    good, bad = scores[gt_labels == 0], scores[gt_labels == 1]
    if not len(good) or not len(bad):
        return None
    cuts = np.unique(scores)
    cuts = cuts[_spread(len(cuts), _MAX_ROC_POINTS)]
    # A cut below all scores calls every image.
    curve = {"x": [1.0, *_share_above(good, cuts)], "y": [1.0, *_share_above(bad, cuts)]}
    point = {"x": _share_above(good, [threshold]), "y": _share_above(bad, [threshold])}
    chance: Spec = {
        "name": "coin toss",
        "x": [0, 1],
        "y": [0, 1],
        "mode": "lines",
        "line": {"color": APART_COLOUR, "dash": "dot", "width": 1},
        "hoverinfo": "skip",
    }
    every: Spec = {
        "name": "all thresholds",
        "mode": "lines",
        "line": {"color": GOOD_COLOUR, "width": 3},
    }
    used: Spec = {
        "name": "threshold in use",
        "mode": "markers",
        "marker": {"color": THRESHOLD_COLOUR, "size": 12, "symbol": "diamond"},
    }
    hover = "%{y:.1%} of defects found<br>%{x:.1%} of good parts called defective<extra></extra>"
    for trace, values in ((every, curve), (used, point)):
        trace |= values | {"hovertemplate": hover}
    layout = layout_of("good parts called defective", "defects found")
    layout["xaxis"] |= {"tickformat": ".0%", "range": [-0.02, 1.02]}
    layout["yaxis"] |= {"tickformat": ".0%", "range": [-0.02, 1.04]}
    return {
        "data": [{"type": "scatter"} | trace for trace in (chance, every, used)],
        "layout": layout,
    }


def _bars(series: Series, edges: NDArray[np.float64], *, share: bool) -> Spec:
    counts = np.histogram(series.scores, bins=edges)[0]
    heights = counts / len(series.scores) if share else counts
    return {
        "type": "bar",
        "name": series.name,
        "x": ((edges[:-1] + edges[1:]) / 2).tolist(),
        "y": heights.tolist(),
        "width": float(edges[1] - edges[0]),
        "opacity": 0.75,
        "marker": {
            "color": series.colour,
            "pattern": {"shape": series.hatch, "size": 6, "fillmode": "overlay"},
        },
        "customdata": counts.tolist(),
        "hovertemplate": f"%{{customdata}} {series.name}, score about %{{x:.4g}}<extra></extra>",
    }


def layout_of(x_title: str, y_title: str, *, small: bool = False) -> Spec:
    """The look that all charts share."""
    size = 11 if small else 13
    axes = (("xaxis", x_title), ("yaxis", y_title))
    return {
        "font": {"family": _FONT, "size": size},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "height": 200 if small else 300,
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    } | {
        axis: {
            "title": {"text": title, "font": {"size": size}},
            "zeroline": False,
            "automargin": True,
            "fixedrange": True,
        }
        for axis, title in axes
    }


def _share_above(values: NDArray[np.float32], cuts: ArrayLike) -> list[float]:
    """Share of `values` strictly above each cut."""
    above = len(values) - np.searchsorted(np.sort(values), cuts, side="right")
    return [float(share) for share in above / len(values)]


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` indices of `count` things, evenly spread, with the first and the last."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def short(value: float) -> float | None:
    """Four digits, which is more than a chart shows; None, a gap, for NaN and infinity."""
    return float(f"{value:.4g}") if np.isfinite(value) else None
