"""The verdict of a command: its last line on stdout, and `summary.json` beside its output.

`ray job submit` turns every exit code but 0 into 1, so what a scheduler needs to know is here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

SUMMARY_SCHEMA = 1


def now() -> str:
    """The time as `started_at` and `finished_at` hold it: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Summary:
    """What a command did."""

    command: str
    """The verb, as typed: train, score, ..., `models list`."""
    run: str | None
    """Name of the run; None for a command without one, or whose config could not be read."""
    exit_code: int
    """0 done, 1 failed, 2 refused, 3 finished with more failures than the config allows."""
    state: str
    """`done`, `planned`, `failed`, `refused` or `partial` (exit code 3)."""
    counts: Mapping[str, int] = field(default_factory=dict)
    uris: Mapping[str, str] = field(default_factory=dict)
    """What was written, by kind: `scores`, `manifest`, `report`, ..."""
    started_at: str = ""
    finished_at: str = ""
    reasons: Sequence[str] = ()
    """One line for each thing that kept `exit_code` from being 0, or that a reader must know."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the version of this layout under `schema`."""
        plain = {
            "counts": dict(self.counts),
            "uris": dict(self.uris),
            "reasons": list(self.reasons),
        }
        return {"schema": SUMMARY_SCHEMA, **vars(self), **plain}

    def to_json(self) -> str:
        """`to_dict` on one line."""
        return json.dumps(self.to_dict(), ensure_ascii=False)


def some_of(lines: Sequence[str], most: int = 20) -> list[str]:
    """The first lines, and how many more there are."""
    if len(lines) <= most:
        return list(lines)
    return [*lines[:most], f"and {len(lines) - most} more of this kind: see the page"]
