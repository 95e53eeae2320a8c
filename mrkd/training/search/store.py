"""Folder of a search.

    searches/<run>/search.json                  resolved config, space, state, and what was found
                   trials/<c>/<config>-<seed>.json  each training, from its first epoch on
                   tests/<c>.json               winner and default on the images kept for the end
                   spent.json                   seconds that trials took so far, of `time_budget`
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
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from mrkd import storage
from mrkd.config import SearchConfig, TrainConfig
from mrkd.config.toml import flattened, merged, put_values
from mrkd.errors import ConfigError
from mrkd.run_summary import now
from mrkd.storage import schema
from mrkd.storage.run_folder import RunFolder
from mrkd.training.search.trial import Trial

SEARCH_VERSION = 1
_NOTHING: Mapping[str, str] = MappingProxyType({})

_WORK = ("models", "teachers", "checkpoints")
_FREE = (
    "workspace",
    "executor",
    "fleet.",
    "price.",
    "search.trials",
    "search.time_budget",
    "search.refit",
    "train.device",
)
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


class Search(RunFolder):
    """Folder of one search."""

    kind, record, version = "searches", "search.json", SEARCH_VERSION
    config: SearchConfig

    def begin(self, made_of: Mapping[str, str] = _NOTHING) -> None:
        """Opens the folder for a start.

        Args:
            made_of: digest of the content behind each key that names one, such as the space's file.

        Raises:
            ConfigError: an earlier start of the run had another config, or other content.
        """
        if self.config.fleet.force:
            self.remove()
        elif before := self.read_json(self.record):
            self._check(before["config"])
            was = before.get("made_of", {})  # of before: not known
            for key in sorted(was.keys() & made_of.keys()):
                if was[key] != made_of[key]:
                    raise ConfigError(
                        f"run {self.config.run!r} was searched with other content of {key}, whose "
                        "trials would be mixed with those of today's: put the old content back, "
                        "take another run name, or --force"
                    )
        storage.delete(self.path("summary.json"))
        self.store({"state": "running", "made_of": dict(made_of)})

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
        before = self.read_json(self.record) or {}
        kept = {"started_at": now(), "made_of": {}} | before
        self.write_record(**{"started_at": kept["started_at"], "made_of": kept["made_of"], **found})

    def put(self, trial: Trial) -> None:
        """Stores a trial, ended or under way."""
        self.write_json(asdict(trial), "trials", trial.category, f"{trial.key}-{trial.seed}.json")

    def get(self, category: str, key: str, seed: int) -> Trial | None:
        """A trial as it was stored last; None where it was never begun."""
        raw = self.read_json("trials", category, f"{key}-{seed}.json")
        return raw and Trial(**raw)

    def trials(self) -> list[Trial]:
        """All trials that have ended, by category, config and seed."""
        files = storage.list_files(self.path("trials"), suffixes=(".json",))
        found = [Trial(**storage.read_json(file.uri)) for file in files]
        return [trial for trial in found if trial.has_ended]

    def drop(self, trial: Trial) -> None:
        """Removes a trial, which then counts as never begun."""
        storage.delete(self.path("trials", trial.category, f"{trial.key}-{trial.seed}.json"))

    def has_model(self, trial: Trial) -> bool:
        """Whether the model of a training is still in the folder."""
        return bool(storage.list_files(self.path("models", trial.category, trial.version)))

    def put_spent_s(self, seconds: float) -> None:
        """Stores the seconds that the trials of all starts took so far."""
        self.write_json({"seconds": seconds}, "spent.json")

    def get_spent_s(self) -> float:
        """The seconds that `put_spent_s` stored; 0 before."""
        stored = self.read_json("spent.json")
        return float(stored["seconds"]) if stored else 0.0

    def checkpoints_uri(self, trial: Trial) -> str:
        """Folder of a training's checkpoints."""
        return self.path("checkpoints", trial.category, f"{trial.key}-{trial.seed}")

    def put_test(self, category: str, config: str, test: Mapping[str, Any]) -> None:
        """Stores the test of a winner, named by its config, and of the default."""
        self.write_json({"config": config, "test": dict(test)}, "tests", f"{category}.json")

    def get_test(self, category: str, config: str) -> Any:
        """The values that `put_test` stored; None where there are none of this winner."""
        stored = self.read_json("tests", f"{category}.json")
        if stored and "config" not in stored:  # of before: that of the only winner there was
            return stored
        return stored["test"] if stored and stored["config"] == config else None

    def put_table(self, trials: Sequence[Trial], space: Sequence[str]) -> str:
        """Stores `trials.parquet`; its URI."""
        uri = self.path("trials.parquet")
        storage.write(uri, schema.to_parquet(table(trials, space, self.config.train.seed)))
        return uri

    def put_best(self, best: Mapping[str, Mapping[str, Any]], *, joint: bool) -> str:
        """Stores `best.toml`; its URI.

        Args:
            best: the values of each category's winner, by dotted key.
            joint: whether all categories have one winner, whose values then are the fleet's.
        """
        config = self.config.base()
        if joint:
            config = config.with_values(next(iter(best.values())))
        raw = config.to_dict() | {"run": f"{config.run}-best"[:100]}
        for name, values in best.items() if not joint else ():
            table: dict[str, Any] = {}
            put_values(table, values)
            raw["category"][name] = merged(raw["category"].get(name, {}), table)
        uri = self.path("best.toml")
        storage.write(uri, TrainConfig.from_dict(raw).to_toml().encode())
        return uri

    def clear(self) -> None:
        """Removes files that only trainings under way need."""
        for name in _WORK:
            self.remove(name)


def table(trials: Sequence[Trial], space: Sequence[str], seed: int) -> pa.Table:
    """A row for each rung of each trial, and one for its end: `TRIALS` and the space's keys.

    Args:
        trials: trials of a search.
        space: keys of its space.
        seed: seed of the search's own trainings; trials with another are refits.
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
