"""Numbers, cards of images and the frame around them, as all pages show them."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs

from mrkd.reports.kit import pictures
from mrkd.reports.kit.values import ScoredImage


def render(
    template: str, *, teachers: Iterable[str], config: Mapping[str, Any], **values: Any
) -> str:
    """A whole page as self-contained HTML: it reads no other file and uses no network.

    Args:
        template: a name of `mrkd/reports/templates`.
        teachers: names of the teachers of the page's models; of a random one the page warns.
        config: the resolved config, shown at the page's end.
        values: variables of the template by name.
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
    image: ScoredImage,
    facts: Mapping[str, str],
    *,
    usual: float,
    verdict: str = "",
    wrong: str = "",
    name: str = "",
) -> dict[str, Any]:
    """Values of the template `card`.

    Args:
        image: the image with its map, regions and ground truth, as far as they are stored.
        facts: words and values below it.
        usual: value of most pixels, at which heat begins.
        verdict: OK, NOK or ERROR; empty: none is shown.
        wrong: remark on a wrong verdict.
        name: title of the card; empty: the image's name.
    """
    return {
        "image": image,
        "facts": facts,
        "usual": usual,
        "verdict": verdict,
        "wrong": wrong,
        "name": name or image.name,
    }


def usual(shown: Iterable[ScoredImage]) -> float:
    """The median of the maps shown: most pixels, even of defective parts, are sound."""
    return median(one.anomaly_map for one in shown)


def median(maps: Iterable[NDArray[np.float32] | None]) -> float:
    """The median over all pixels of these maps; 0 without any."""
    pixels = [one.ravel() for one in maps if one is not None]
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


def minute(at: str) -> str:
    """A stored time, ISO 8601, to the minute."""
    return f"{datetime.fromisoformat(at).astimezone(UTC):%Y-%m-%d %H:%M} UTC" if at else "unknown"


def took(started_at: str, finished_at: str | None) -> float | None:
    """Seconds between two stored times; None where the second is not known."""
    if not finished_at:
        return None
    begun, ended = map(datetime.fromisoformat, (started_at, finished_at))
    return (ended - begun).total_seconds()


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mrkd.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (figure, change, score, signed, count, percent, duration, megabytes, minute)
    environment.filters |= {one.__name__: one for one in filters}
    environment.filters |= {
        "jpeg": pictures.jpeg_uri,
        "heat": pictures.heat_uri,
        "outline": pictures.outline,
    }
    return environment


@cache
def _plotly() -> str:
    """plotly.js in gzip and base64: 2.0 MB instead of 4.8; the same bytes on every call."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode("ascii")
