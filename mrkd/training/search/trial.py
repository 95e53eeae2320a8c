"""One training of a search: a config that was tried on a category, and its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["running", "done", "pruned", "failed", "out_of_memory"]


def key_of(values: Mapping[str, Any]) -> str:
    """The name of a config by what it changes: 12 hex digits; of no change too."""
    text = json.dumps(dict(values), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass
class Trial:
    """A config, a category and a seed.

    Args:
        category: its name.
        values: values by dotted key of the space.
        seed: seed that it was trained with.
        state: `pruned`: ended at a rung.
        rows: one an epoch (`training.fit`); those at a rung hold its marks too.
        marks: figures of the model that was kept: `objective`, `image_auroc`, `aupro`, ...
        version: version of that model; a search keeps models of refits alone, until it ends.
        model_bytes: size of the model's files, without the teacher.
        seconds: duration of the trial.
        error: one line; empty where there was none.
    """

    category: str
    values: dict[str, Any]
    seed: int
    state: State = "running"
    rows: list[dict[str, Any]] = field(default_factory=list)
    marks: dict[str, Any] = field(default_factory=dict)
    version: str = ""
    model_bytes: int = 0
    seconds: float = 0.0
    error: str = ""

    @property
    def key(self) -> str:
        """The name of its config."""
        return key_of(self.values)

    @property
    def has_ended(self) -> bool:
        """Whether it is never to be trained again."""
        return self.state != "running"

    @property
    def objective(self) -> float | None:
        """The objective; None where the trial did not come to its end."""
        return self.marks.get("objective") if self.state == "done" else None

    @property
    def rungs(self) -> list[dict[str, Any]]:
        """Rows of the epochs after which it was measured."""
        return [row for row in self.rows if "objective" in row]
