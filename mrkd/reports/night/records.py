"""Records of other modules in a night's folder: starts, parts, reference parts.

A missing file is left out. An unreadable one adds a line to the page's gaps.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pyarrow.compute as pc

from mrkd import storage
from mrkd.errors import ArtefactError, StorageError
from mrkd.reports.kit import read as stored
from mrkd.reports.kit.values import Row

NIGHT_VERSION = 1
GOLDEN_VERSION = 1
_PARTS_SHOWN = 50

_START = ("revision", "started_at", "images", "images_per_s", "seconds", "requests", "attempts")
_GOLDEN = ("category", "label", "image_uri", "image_score", "threshold", "low", "high", "problem")
_PARTS = ("category", "part", "verdict", "reason", "image_uri", "missing_views")


def load(night_uri: str, gaps: list[str]) -> dict[str, Any]:
    """The records of a night's folder, as `NightData` has them.

    Args:
        night_uri: `<workspace>/nights/<run>`.
        gaps: gets a line for each file that cannot be read.
    """
    return {
        "starts": _read(_starts, storage.join(night_uri, "night.json"), gaps) or (),
        "parts": _read(_parts, storage.join(night_uri, "parts.parquet"), gaps),
        "golden": _read(_golden, storage.join(night_uri, "golden.json"), gaps),
    }


def _read(load: Callable[[str], Any], uri: str, gaps: list[str]) -> Any:
    """The content of a file; None where it is missing, or, with a line, unreadable."""
    try:
        return load(uri)
    except StorageError as error:
        if error.kind != "missing":
            gaps.append(str(error))
    except ArtefactError as error:
        gaps.append(str(error))
    except (KeyError, TypeError) as error:
        gaps.append(f"{uri} is not a record of this version of mrkd ({error!r})")
    return None


def _starts(uri: str) -> list[Row]:
    record = stored.record(uri, version=NIGHT_VERSION, advice="start the night again")
    return [
        {name: start[name] for name in _START}
        | {name: start.get(name) for name in ("finished_at", "peak_rss_bytes")}
        for start in record["starts"]
    ]


def _parts(uri: str) -> Row:
    table = stored.table(uri, _PARTS)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in table.group_by(["category", "verdict"]).aggregate([([], "count_all")]).to_pylist():
        counts[row["category"]][row["verdict"]] = row["count_all"]
    bad = table.filter(pc.field("verdict") != "OK").sort_by([("verdict", "descending")])
    lengths = pc.list_value_length(table["missing_views"])
    return {
        "counts": {
            name: (own["OK"], own["NOK"], own["ERROR"]) for name, own in sorted(counts.items())
        },
        "missing": pc.sum(pc.greater(pc.fill_null(lengths, 0), 0)).as_py() or 0,
        "shown": bad.slice(0, _PARTS_SHOWN).to_pylist(),
    }


def _golden(uri: str) -> Row:
    record = stored.record(uri, version=GOLDEN_VERSION, advice="start the night again")
    images = [{name: image[name] for name in _GOLDEN} for image in record["images"]]
    return {name: record[name] for name in ("state", "forced", "without")} | {"images": images}
