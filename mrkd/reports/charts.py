"""Charts as plain plotly specs: `{"data": [...], "layout": {...}}`, drawn by the page's one script.

Plain dicts, because `plotly.graph_objects` takes a second to import and adds 8 KB of template to
every figure; a test has it validate them. Text and grid take their colours from the page's CSS, so
that the charts follow a dark page.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Spec = dict[str, Any]

# Blue and orange differ in brightness too, and defective bars are hatched: hue is not needed.
GOOD_COLOUR = "#3b7dd8"
DEFECTIVE_COLOUR = "#e8710a"
APART_COLOUR = "#8a8f98"
THRESHOLD_COLOUR = "#dc267f"

_NUM_BINS = 40
_MAX_ROC_POINTS = 400
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"


def histogram(
    scores: NDArray[np.float32],
    gt_labels: NDArray[np.int8],
    headline: NDArray[np.bool_],
    *,
    threshold: float,
) -> Spec:
    """Numbers of good and defective images by score, with the threshold as a line.

    Args:
        scores: float32 `[n]`, n >= 1.
        gt_labels: int8 `[n]`, 0 good, 1 anomalous.
        headline: bool `[n]`, False for images that are reported apart.
        threshold: of the calibration.
    """
    edges = np.histogram_bin_edges(np.append(scores.astype(np.float64), threshold), _NUM_BINS)
    groups = [
        ("good", GOOD_COLOUR, "", headline & (gt_labels == 0)),
        ("defective", DEFECTIVE_COLOUR, "/", headline & (gt_labels == 1)),
        ("reported apart", APART_COLOUR, ".", ~headline),
    ]
    bars: list[Spec] = [
        _bars(name, colour, hatch, np.histogram(scores[chosen], bins=edges)[0], edges)
        for name, colour, hatch, chosen in groups
        if chosen.any()
    ]
    line: Spec = {
        "type": "scatter",
        "mode": "lines",
        "name": "threshold",
        "x": [threshold, threshold],
        "y": [0, max(max(bar["y"]) for bar in bars)],
        "line": {"color": THRESHOLD_COLOUR, "width": 2, "dash": "dash"},
        "hovertemplate": "threshold %{x:.4g}<extra></extra>",
    }
    layout = _layout("image score", "images") | {"barmode": "overlay", "bargap": 0.04}
    return {"data": [*bars, line], "layout": layout}


def roc(
    scores: NDArray[np.float32], gt_labels: NDArray[np.int8], *, threshold: float
) -> Spec | None:
    """Share of defects found against share of good parts called defective, over all thresholds.

    Args:
        scores: float32 `[n]`.
        gt_labels: int8 `[n]`, 0 good, 1 anomalous.
        threshold: of the calibration, marked on the curve.

    Returns:
        The chart; None where one of the two kinds is missing.
    """
    good, bad = scores[gt_labels == 0], scores[gt_labels == 1]
    if not len(good) or not len(bad):
        return None
    cuts = np.unique(scores)
    if len(cuts) > _MAX_ROC_POINTS:
        cuts = cuts[np.linspace(0, len(cuts) - 1, _MAX_ROC_POINTS).round().astype(int)]
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
    layout = _layout("good parts called defective", "defects found")
    layout["xaxis"] |= {"tickformat": ".0%", "range": [-0.02, 1.02]}
    layout["yaxis"] |= {"tickformat": ".0%", "range": [-0.02, 1.04]}
    return {
        "data": [{"type": "scatter"} | trace for trace in (chance, every, used)],
        "layout": layout,
    }


def _bars(
    name: str, colour: str, hatch: str, counts: NDArray[np.int64], edges: NDArray[np.float64]
) -> Spec:
    return {
        "type": "bar",
        "name": name,
        "x": ((edges[:-1] + edges[1:]) / 2).tolist(),
        "y": counts.tolist(),
        "width": float(edges[1] - edges[0]),
        "opacity": 0.75,
        "marker": {
            "color": colour,
            "pattern": {"shape": hatch, "size": 6, "fillmode": "overlay"},
        },
        "hovertemplate": f"%{{y}} {name}, score about %{{x:.4g}}<extra></extra>",
    }


def _layout(x_title: str, y_title: str) -> Spec:
    axes = (("xaxis", x_title), ("yaxis", y_title))
    return {
        "font": {"family": _FONT, "size": 13},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "height": 300,
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    } | {
        axis: {
            "title": {"text": title, "font": {"size": 13}},
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
