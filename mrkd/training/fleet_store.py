"""What a fleet leaves in its folder: its config, and how each category ended.

    fleets/<run>/fleet.json              resolved config, state, when it began and ended
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
from collections.abc import Mapping
from typing import Any, Literal

from mrkd import storage
from mrkd.config import TrainConfig
from mrkd.run_summary import now

FLEET_VERSION = 1

State = Literal["running", "done", "stopped"]
STATUSES = ("trained", "up_to_date", "failed", "not_started")


class Fleet:
    """The folder of one fleet, and what has become of its categories so far.

    Args:
        config: of the fleet.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.uri = storage.join(config.workspace, "fleets", config.run)
        self.records: dict[str, dict[str, Any]] = {}
        self._started_at = now()

    def checkpoints_uri(self, category: str) -> str:
        """Folder of the category's checkpoints."""
        return storage.join(self.uri, "checkpoints", category)

    def begin(self) -> dict[str, dict[str, Any]]:
        """Opens the folder for a start, and returns what an earlier one that was ended has done.

        Returns:
            Where trainings are forced, the records of the categories that it trained; none after
            one that came to its end.
        """
        folder = storage.join(self.uri, "categories")
        files = storage.list_files(folder, suffixes=(".json",))
        earlier: dict[str, dict[str, Any]] = {}
        if not self._was_ended():
            for file in files:
                storage.delete(file.uri)
        elif self.config.fleet.force:
            # What is not forced is found by its inputs, this and every other fleet's.
            found = [storage.read_json(file.uri) for file in files]
            earlier = {one["category"]: one for one in found if one["status"] == "trained"}
        storage.delete(storage.join(self.uri, "summary.json"))
        text = self.config.to_toml()
        storage.write(storage.join(self.uri, "config.toml"), text.encode())
        self._store_fleet("running")
        return earlier

    def end(self, category: str, record: Mapping[str, Any]) -> None:
        """Stores how a category ended.

        Args:
            category: its name.
            record: plain values: `status` (trained, up_to_date, failed, not_started) and
                `attempts`; of a result its fields, of a failure `error` and `traceback`, of what
                was not started the `reason`.
        """
        self.records[category] = {**record, "category": category}
        uri = storage.join(self.uri, "categories", f"{category}.json")
        storage.write_json(uri, self.records[category])

    def store_traceback(self, category: str, number: int, text: str) -> str:
        """Stores the traceback of an attempt that failed, and returns its URI."""
        uri = storage.join(self.uri, "tracebacks", f"{category}-{number}.txt")
        storage.write(uri, text.encode())
        return uri

    def close(self, state: State) -> None:
        """Stores that nothing goes on; of a fleet that was stopped, too."""
        self._store_fleet(state)

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
        """What people should know of the thresholds and models, a line each, by category."""
        return [
            f"category {name}: {doubt}"
            for name, record in sorted(self.records.items())
            for doubt in doubts_of(record)
        ]

    def _was_ended(self) -> bool:
        """Whether the start before this one was killed or stopped."""
        uri = storage.join(self.uri, "fleet.json")
        return storage.stat(uri) is not None and storage.read_json(uri)["state"] != "done"

    def _store_fleet(self, state: State) -> None:
        content: Mapping[str, Any] = {
            "schema": FLEET_VERSION,
            "run": self.config.run,
            "workspace": self.config.workspace,
            "root": self.config.data.root,
            "state": state,
            "started_at": self._started_at,
            "finished_at": "" if state == "running" else now(),
            "config": self.config.to_dict(),
        }
        storage.write_json(storage.join(self.uri, "fleet.json"), content)


def doubts_of(record: Mapping[str, Any]) -> list[str]:
    """What people should know of one category's model, one line each."""
    gate = record.get("gate") or {}
    found = list(record.get("warnings") or ())
    if (gate.get("false_calls") or {}).get("far_above") or gate.get("state") == "held":
        found.append(gate["reason"])
    if (gate.get("commissioned") or {}).get("reason"):
        found.append(gate["commissioned"]["reason"])
    return found
