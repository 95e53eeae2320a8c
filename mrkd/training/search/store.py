"""What a search leaves in its folder.

    searches/<run>/search.json                  resolved config, space, state, and what was found
                   trials/<c>/<config>-<seed>.json  each training, from its first epoch on
                   tests/<c>.json               winner and default on the images kept for the end
                   trials.parquet               a row for each trial and rung
                   best.toml                    runs in `mrkd train` as it is
                   report.html, summary.json    the page, the verdict
                   models/                      of refits, which are tested at the end
                   teachers/, checkpoints/      of trainings under way; all three go at the end

A training that has ended is never started again; a search that was killed draws the same configs
and finds those that have been tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from mrkd import storage
from mrkd.config import SearchConfig, TrainConfig
from mrkd.config.toml import flattened, merged, put_values
from mrkd.errors import ConfigError
from mrkd.run_summary import now
from mrkd.storage import schema
from mrkd.training.search.trial import Trial

SEARCH_VERSION = 1

_WORK = ("models", "teachers", "checkpoints")
_FREE = ("workspace", "fleet.", "price.", "search.trials", "search.refit", "train.device")
"""Beginnings of keys that may change between two starts: they change no trial."""

TRIALS = pa.schema(
    [
        pa.field("category", pa.string(), nullable=False),
        pa.field("config", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("epoch", pa.int64()),
        pa.field("step", pa.int64()),
        pa.field("last", pa.bool_(), nullable=False),
        pa.field("objective", pa.float64()),
        pa.field("image_auroc", pa.float64()),
        pa.field("aupro", pa.float64()),
        pa.field("false_call_rate", pa.float64()),
        pa.field("loss", pa.float64()),
        pa.field("validation_loss", pa.float64()),
        pa.field("seconds", pa.float64()),
        pa.field("model_bytes", pa.int64()),
        pa.field("error", pa.string()),
    ]
)
"""The columns of `trials.parquet` before those of the space, which are named by its keys."""


class Search:
    """The folder of one search.

    Args:
        config: of the search.
    """

    def __init__(self, config: SearchConfig) -> None:
        self.config = config
        self.uri = storage.join(config.workspace, "searches", config.run)

    def begin(self) -> None:
        """Opens the folder for a start.

        Raises:
            ConfigError: an earlier start of the run had another config.
        """
        uri = storage.join(self.uri, "search.json")
        if self.config.fleet.force:
            for file in storage.list_files(self.uri):
                storage.delete(file.uri)
        elif storage.stat(uri):
            self._check(storage.read_json(uri)["config"])
        storage.delete(storage.join(self.uri, "summary.json"))
        self.store({"state": "running"})

    def _check(self, before: Mapping[str, Any]) -> None:
        was, now = flattened(before), flattened(self.config.to_dict())
        for key in sorted(was.keys() & now.keys()):
            if was[key] != now[key] and not key.startswith(_FREE):
                raise ConfigError(
                    f"run {self.config.run!r} was searched with {key} = {was[key]!r}, now it is "
                    f"{now[key]!r}: go on with the old value, take another run name, or --force"
                )

    def store(self, found: Mapping[str, Any]) -> None:
        """Stores `search.json`: `state`, and at the end what was found."""
        uri = storage.join(self.uri, "search.json")
        started_at = storage.read_json(uri)["started_at"] if storage.stat(uri) else now()
        content = {
            "schema": SEARCH_VERSION,
            "run": self.config.run,
            "workspace": self.config.workspace,
            "root": self.config.data.root,
            "started_at": started_at,
            "finished_at": "" if found["state"] == "running" else now(),
            "config": self.config.to_dict(),
            **found,
        }
        storage.write_json(uri, content)

    def put(self, trial: Trial) -> None:
        """Stores how far a trial is."""
        storage.write_json(self._trial_uri(trial.category, trial.key, trial.seed), trial.to_dict())

    def get(self, category: str, key: str, seed: int) -> Trial | None:
        """A trial as it was stored last; None where it was never begun."""
        uri = self._trial_uri(category, key, seed)
        return Trial.from_dict(storage.read_json(uri)) if storage.stat(uri) else None

    def trials(self) -> list[Trial]:
        """All trials that have ended, by category, config and seed."""
        files = storage.list_files(storage.join(self.uri, "trials"), suffixes=(".json",))
        found = [Trial.from_dict(storage.read_json(file.uri)) for file in files]
        return [trial for trial in found if trial.has_ended]

    def checkpoints_uri(self, trial: Trial) -> str:
        """Folder of a training's checkpoints."""
        name = f"{trial.key}-{trial.seed}"
        return storage.join(self.uri, "checkpoints", trial.category, name)

    def put_test(self, category: str, test: Mapping[str, Any]) -> None:
        """Stores what the winner and the default did on the images kept for the end."""
        storage.write_json(storage.join(self.uri, "tests", f"{category}.json"), dict(test))

    def get_test(self, category: str) -> dict[str, Any] | None:
        """What `put_test` stored."""
        uri = storage.join(self.uri, "tests", f"{category}.json")
        return storage.read_json(uri) if storage.stat(uri) else None

    def put_table(self, trials: Sequence[Trial], space: Sequence[str]) -> str:
        """Stores `trials.parquet`; its URI."""
        uri = storage.join(self.uri, "trials.parquet")
        storage.write(uri, schema.to_parquet(table(trials, space, self.config.train.seed)))
        return uri

    def put_best(self, best: Mapping[str, Mapping[str, Any]], *, joint: bool) -> str:
        """Stores `best.toml`; its URI.

        Args:
            best: the values of each category's winner, by dotted key.
            joint: whether all have the same, which then is the fleet's.
        """
        config = self.config.base()
        if joint:
            config = config.with_values(next(iter(best.values())))
        raw = config.to_dict() | {"run": f"{config.run}-best"[:100]}
        for name, values in best.items() if not joint else ():
            table: dict[str, Any] = {}
            put_values(table, values)
            raw["category"][name] = merged(raw["category"].get(name, {}), table)
        uri = storage.join(self.uri, "best.toml")
        storage.write(uri, TrainConfig.from_dict(raw).to_toml().encode())
        return uri

    def clear(self) -> None:
        """Removes what only trainings under way need."""
        for name in _WORK:
            for file in storage.list_files(storage.join(self.uri, name)):
                storage.delete(file.uri)

    def _trial_uri(self, category: str, key: str, seed: int) -> str:
        return storage.join(self.uri, "trials", category, f"{key}-{seed}.json")


def table(trials: Sequence[Trial], space: Sequence[str], seed: int) -> pa.Table:
    """A row for each rung of each trial, and one for its end: `TRIALS` and the space's keys.

    Args:
        trials: of a search.
        space: its keys.
        seed: of the search's own trainings; others are refits.
    """
    rows = []
    for trial in trials:
        common = {
            "category": trial.category,
            "config": trial.key,
            "stage": "search" if trial.seed == seed else "refit",
            "seed": trial.seed,
            "state": trial.state,
            **{key: _plain(trial.values.get(key)) for key in space},
        }
        rows += [{**common, **row, "last": False} for row in trial.rungs]
        end = trial.rows[-1] if trial.rows else {}
        whole = {"seconds": trial.seconds, "model_bytes": trial.model_bytes}
        error = {"error": trial.error or None}
        rows.append({**common, **end, **trial.marks, **whole, **error, "last": True})
    names = [*TRIALS.names, *space]
    columns = {name: [row.get(name) for row in rows] for name in names}
    arrays = [pa.array(columns[field.name], field.type) for field in TRIALS]
    arrays += [pa.array(columns[name]) for name in space]
    nullable = [pa.field(name, array.type) for name, array in zip(names, arrays, strict=True)]
    return pa.table(arrays, schema=pa.schema([*TRIALS, *nullable[len(TRIALS) :]]))


def _plain(value: Any) -> Any:
    """A list as text: a column holds values of one type."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value
