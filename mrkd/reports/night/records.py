"""What other modules left in a night's folder for its page: its starts, parts, reference parts.

Each file may be missing: it is left out. One that cannot be read leaves a line.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pyarrow.compute as pc

from mrkd import storage
from mrkd.errors import ArtefactError, StorageError
from mrkd.reports.kit import read as stored
from mrkd.reports.night.values import Golden, GoldenImage, Parts, PartVerdict, Start

NIGHT_VERSION = 1
GOLDEN_VERSION = 1
_PARTS_SHOWN = 50

T = TypeVar("T")


@dataclass(frozen=True)
class Records:
    """What there is; see `night_content.NightData`."""

    starts: tuple[Start, ...]
    parts: Parts | None
    golden: Golden | None
    gaps: tuple[str, ...]


def load(night_uri: str) -> Records:
    """The records of a night's folder."""
    gaps: list[str] = []
    return Records(
        starts=_read(_starts, storage.join(night_uri, "night.json"), gaps) or (),
        parts=_read(_parts, storage.join(night_uri, "parts.parquet"), gaps),
        golden=_read(_golden, storage.join(night_uri, "golden.json"), gaps),
        gaps=tuple(gaps),
    )


def _read(load: Callable[[str], T], uri: str, gaps: list[str]) -> T | None:
    """What a file holds; None where it is not there, or, with a line, unreadable."""
    try:
        return load(uri)
    except StorageError as error:
        if error.kind != "missing":
            gaps.append(str(error))
    except ArtefactError as error:
        gaps.append(str(error))
    except (KeyError, TypeError) as error:
        gaps.append(f"{uri} is no record of this version of mrkd ({error!r})")
    return None


def _starts(uri: str) -> tuple[Start, ...]:
    record = stored.record(uri, version=NIGHT_VERSION, advice="start the night again")
    return tuple(
        Start(
            revision=start["revision"],
            started_at=start["started_at"],
            finished_at=start.get("finished_at") or "",
            images=start["images"],
            images_per_s=start["images_per_s"],
            seconds=start["seconds"],
            requests=start["requests"],
            peak_rss_bytes=start.get("peak_rss_bytes"),
            attempts=start["attempts"],
        )
        for start in record["starts"]
    )


_PART_COLUMNS = ("category", "part", "verdict", "reason", "image_uri", "missing_views")


def _parts(uri: str) -> Parts:
    table = stored.table(uri, _PART_COLUMNS)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in table.group_by(["category", "verdict"]).aggregate([([], "count_all")]).to_pylist():
        counts[row["category"]][row["verdict"]] = row["count_all"]
    bad = table.filter(pc.field("verdict") != "OK").sort_by([("verdict", "descending")])
    lengths = pc.list_value_length(table["missing_views"])
    return Parts(
        counts={
            name: (own["OK"], own["NOK"], own["ERROR"]) for name, own in sorted(counts.items())
        },
        missing=pc.sum(pc.greater(pc.fill_null(lengths, 0), 0)).as_py() or 0,
        shown=tuple(
            PartVerdict(
                **{name: row[name] or "" for name in _PART_COLUMNS[:-1]},
                missing_views=tuple(row["missing_views"] or ()),
            )
            for row in bad.slice(0, _PARTS_SHOWN).to_pylist()
        ),
    )


_GOLDEN = tuple(GoldenImage.__dataclass_fields__)


def _golden(uri: str) -> Golden:
    record = stored.record(uri, version=GOLDEN_VERSION, advice="start the night again")
    return Golden(
        state=record["state"],
        forced=record["forced"],
        images=tuple(
            GoldenImage(**{name: image[name] for name in _GOLDEN}) for image in record["images"]
        ),
        without=tuple(record["without"]),
    )
