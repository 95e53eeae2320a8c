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
    line = trace(
        "threshold",
        [threshold, threshold],
        [0, max(max(bar["y"]) for bar in bars)],
        "threshold %{x:.4g}",
        line={"color": THRESHOLD_COLOUR, "width": 2, "dash": "dash"},
        cliponaxis=False,
    )
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
    data = [
        trace(
            name,
            epochs[shown].tolist(),
            [short(value) for value in loss[shown]],
            f"epoch %{{x}}, {name} %{{y:.4g}}",
            mode="lines" if len(shown) > 1 else "markers",
            line={"color": colour, "width": 2, "dash": dash},
        )
        for name, colour, dash, loss in (
            ("training", GOOD_COLOUR, "solid", training),
            ("validation", HELD_OUT_COLOUR, "dot", validation),
        )
    ]
    at, loss = [int(epochs[kept])], [short(validation[kept])]
    data.append(
        trace("kept", at, loss, "epoch %{x} was kept, %{y:.4g}", mode="markers", marker=_marked(9))
    )
    layout = layout_of("epoch", "loss", small=True)
    layout["yaxis"] |= loss_axis(data)
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
    before = trace(
        "nights before",
        times[:-1],
        shown[:-1],
        f"%{{x}}: {text}",
        mode="lines+markers",
        line={"color": APART_COLOUR, "width": 1},
        marker={"color": APART_COLOUR, "size": 5},
    )
    hover = f"this night: {text}"
    this = trace("this night", times[-1:], shown[-1:], hover, mode="markers", marker=_marked(9))
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
    return {"data": [before, this], "layout": layout}


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
    hover = "%{y:.1%} of defects found<br>%{x:.1%} of good parts called defective"
    chance = {"color": APART_COLOUR, "dash": "dot", "width": 1}
    data = [
        trace("coin toss", [0, 1], [0, 1], line=chance),
        trace(
            "all thresholds",
            # A cut below all scores calls every image.
            [1.0, *_share_above(good, cuts)],
            [1.0, *_share_above(bad, cuts)],
            hover,
            line={"color": GOOD_COLOUR, "width": 3},
        ),
        trace(
            "threshold in use",
            _share_above(good, [threshold]),
            _share_above(bad, [threshold]),
            hover,
            mode="markers",
            marker=_marked(12),
        ),
    ]
    layout = layout_of("good parts called defective", "defects found")
    layout["xaxis"] |= {"tickformat": ".0%", "range": [-0.02, 1.02]}
    layout["yaxis"] |= {"tickformat": ".0%", "range": [-0.02, 1.04]}
    return {"data": data, "layout": layout}


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


def trace(
    name: str, x: Sequence[Any], y: Sequence[Any], hover: str = "", mode: str = "lines", **look: Any
) -> Spec:
    """Points or a line of a chart.

    Args:
        name: name in the legend.
        x: positions, one for each value.
        y: values; None: a gap.
        hover: text at a point under the cursor, with plotly's fields; empty: none.
        mode: "lines", "markers" or both.
        look: further keys of plotly's scatter.
    """
    text = {"hovertemplate": f"{hover}<extra></extra>"} if hover else {"hoverinfo": "skip"}
    return {"type": "scatter", "mode": mode, "name": name, "x": list(x), "y": list(y)} | look | text


def loss_axis(data: Sequence[Spec], *, narrow: str = "D2") -> Spec:
    """A log scale of the traces' losses, with `narrow` as its ticks for less than a factor of 5.

    Most of the fall is in the first epochs: on a plain scale the rest is one flat line. Empty, a
    plain scale, where a loss is not above 0.
    """
    values = [y for one in data for y in one["y"] if y is not None]
    if not values or min(values) <= 0:
        return {}
    ticks = narrow if max(values) < 5 * min(values) else "D2"
    return {"type": "log", "dtick": ticks, "tickformat": ".2~g"}


def _marked(size: int) -> Spec:
    return {"color": THRESHOLD_COLOUR, "size": size, "symbol": "diamond"}


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
