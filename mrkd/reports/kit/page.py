"""What all pages show in one way: numbers, cards of pictures, and the frame around it all."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import jinja2
import numpy as np
from plotly.offline import get_plotlyjs

from mrkd.reports.kit import pictures
from mrkd.reports.kit.values import Picture


def render(
    template: str, *, teachers: Iterable[str], config: Mapping[str, Any], **values: Any
) -> str:
    """The whole page as HTML that stands alone: it reads no other file and asks no network.

    Args:
        template: a name of `mrkd/reports/templates`.
        teachers: names of those behind the page's models; of a random one the page warns.
        config: the resolved config, shown at the page's end.
        values: by the template's names.
    """
    return (
        _environment()
        .get_template(template)
        .render(
            **values,
            random_teachers=[name for name in teachers if name.startswith("random:")],
            settings=json.dumps(config, indent=2, ensure_ascii=False),
            plotly=_plotly(),
        )
    )


def card(
    picture: Picture, facts: Mapping[str, str], *, usual: float, pixel_threshold: float
) -> dict[str, Any]:
    """What the template `card` shows of a picture.

    Args:
        picture: with its map, regions and ground truth, as far as there are any.
        facts: words and values below it.
        usual: of pixels, where heat begins.
        pixel_threshold: where heat is full.
    """
    size = {"height": picture.height, "width": picture.width}
    gt_mask, anomaly_map = picture.gt_mask, picture.anomaly_map
    heat = None
    if anomaly_map is not None:
        heat = pictures.heat_uri(anomaly_map, low=usual, high=pixel_threshold)
    return size | {
        "uri": picture.image_uri,
        "name": PurePosixPath(picture.image_uri).name,
        "jpeg": None if picture.pixels is None else pictures.jpeg_uri(picture.pixels),
        "heat": heat,
        "map_box": picture.map_box,
        "regions": picture.regions,
        "truth": "" if gt_mask is None else pictures.outline(gt_mask, **size),
        "verdict": "",
        "wrong": "",
        "facts": facts,
    }


def usual(shown: Iterable[Picture]) -> float:
    """The median of the maps shown: most pixels, even of defective parts, are sound."""
    pixels = [one.anomaly_map.ravel() for one in shown if one.anomaly_map is not None]
    return float(np.median(np.concatenate(pixels))) if pixels else 0.0


def figure(value: float) -> str:
    """A metric or a share, three digits behind the point."""
    return f"{value:.3f}"


def change(value: float) -> str:
    """A difference of metrics, always with its sign."""
    return f"{round(value, 3) + 0.0:+.3f}".replace("-", "\N{MINUS SIGN}")


def score(value: float) -> str:
    """A score or threshold, four digits."""
    return f"{value:.4g}"


def count(value: float) -> str:
    """A number of things, its thousands apart."""
    return f"{value:,.0f}"


def signed(value: float) -> str:
    """A distance, two digits or all before the point, always with its sign."""
    return f"{value:+{digits(value)}}".replace("-", "\N{MINUS SIGN}")


def digits(value: float) -> str:
    """The format of two digits, or of all before the point: 0.12, 1.2, 123."""
    return ".2g" if abs(value) < 10 else ".0f"


def percent(value: float) -> str:
    """A share."""
    return f"{value * 100:.2g}\u00a0%" if value < 0.1 else f"{value * 100:.0f}\u00a0%"


def duration(seconds: float) -> str:
    """A time in its own unit."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f}\u00a0{unit}"
    return f"{seconds:.0f}\u00a0s"


def megabytes(num_bytes: int) -> str:
    """A size."""
    return f"{num_bytes / 1e6:.1f}"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mrkd.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (figure, change, score, count, percent, duration, megabytes)
    environment.filters |= {one.__name__: one for one in filters}
    return environment


@cache
def _plotly() -> str:
    """plotly.js in gzip and base64: 2.0 MB instead of 4.8; the same bytes on every call."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode("ascii")
