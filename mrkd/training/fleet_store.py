"""Folder of a fleet: its config, and how each category ended.

    fleets/<run>/fleet.json              resolved config, state, start and end
                 config.toml             the resolved config, to start it by
                 categories/<c>.json     how the category ended, written the moment it does
                 checkpoints/<c>/        of a training under way; empty once it has ended
                 tracebacks/<c>-<n>.txt  of its n-th attempt, where that failed
                 report.html             the page (`reports.write_page`)
                 summary.json            the verdict

A fleet without a verdict runs, or was killed; the next start goes on with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mrkd import storage
from mrkd.config import TrainConfig
from mrkd.run_summary import now
from mrkd.storage.run_folder import RunFolder

FLEET_VERSION = 1

State = Literal["running", "done", "stopped"]
STATUSES = ("trained", "up_to_date", "failed", "not_started")


class Fleet(RunFolder):
    """Folder of one fleet, with the records of the categories that have ended so far."""

    kind, record, version = "fleets", "fleet.json", FLEET_VERSION
    config: TrainConfig

    def __init__(
        self, config: TrainConfig, notes: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """Opens the folder of a fleet.

        Args:
            config: configuration of the fleet.
            notes: lines by category about files of the data set that are passed over; they are
                among the warnings of its record, or in its error.
        """
        super().__init__(config)
        self._notes = notes or {}
        self.records: dict[str, dict[str, Any]] = {}
        self._started_at = now()

    def checkpoints_uri(self, category: str) -> str:
        """Folder of the category's checkpoints."""
        return self.path("checkpoints", category)

    def begin(self) -> dict[str, dict[str, Any]]:
        """Opens the folder for a start, and returns what an earlier, interrupted one has trained.

        Returns:
            Where trainings are forced, the records of the categories that the interrupted start
            trained; none after one that came to its end.
        """
        earlier: dict[str, dict[str, Any]] = {}
        before = self.read_json(self.record)
        if before is None or before["state"] == "done":
            self.remove("categories")
        elif self.config.fleet.force:
            # What is not forced is found by its inputs, this and every other fleet's.
            files = storage.list_files(self.path("categories"), suffixes=(".json",))
            found = [storage.read_json(file.uri) for file in files]
            earlier = {one["category"]: one for one in found if one["status"] == "trained"}
        storage.delete(self.path("summary.json"))
        storage.write(self.path("config.toml"), self.config.to_toml().encode())
        self.close("running")
        return earlier

    def end(self, category: str, record: Mapping[str, Any]) -> None:
        """Stores how a category ended.

        Args:
            category: its name.
            record: plain values: `status` (trained, up_to_date, failed, not_started) and
                `attempts`; `lost`, why attempts ended that do not count as failures; of a result
                its fields and `gpu_seconds`, of a failure `error` and `traceback`, of what was not
                started the `reason`.
        """
        notes = self._notes.get(category)
        if notes and record["status"] == "failed":
            record = {**record, "error": "; ".join((record["error"], *notes))}
        elif notes:
            record = {**record, "warnings": [*notes, *record.get("warnings", ())]}
        self.records[category] = {**record, "category": category}
        self.write_json(self.records[category], "categories", f"{category}.json")

    def store_traceback(self, category: str, number: int, text: str) -> str:
        """Stores the traceback of an attempt that failed, and returns its URI."""
        uri = self.path("tracebacks", f"{category}-{number}.txt")
        storage.write(uri, text.encode())
        return uri

    def close(self, state: State) -> None:
        """Stores the state of the fleet."""
        self.write_record(state, self._started_at)

    @property
    def counts(self) -> dict[str, int]:
        """Number of categories, and of those that ended in each status; `held` by their gate."""
        counts = Counter(record["status"] for record in self.records.values())
        held = sum(r.get("gate", {}).get("state") == "held" for r in self.records.values())
        statuses = {status: counts[status] for status in STATUSES}
        return {"categories": len(self.records), **statuses, "held": held}

    @property
    def failures(self) -> dict[str, str]:
        """The error of each category that failed, sorted by name."""
        failed = {n: r["error"] for n, r in self.records.items() if r["status"] == "failed"}
        return dict(sorted(failed.items()))

    @property
    def doubts(self) -> list[str]:
        """Doubts about the thresholds and models, a line each, by category."""
        return [
            f"category {name}: {doubt}"
            for name, record in sorted(self.records.items())
            for doubt in doubts_of(record)
        ]


def doubts_of(record: Mapping[str, Any]) -> list[str]:
    """Doubts about one category's threshold and model, one line each."""
    gate = record.get("gate") or {}
    found = list(record.get("warnings") or ())
    if (gate.get("false_calls") or {}).get("far_above") or gate.get("state") == "held":
        found.append(gate["reason"])
    if (gate.get("commissioned") or {}).get("reason"):
        found.append(gate["commissioned"]["reason"])
    return found
