"""The commands with a config (train, tune, score, evaluate) and `mrkd config ...`.

Nothing heavy is imported before one runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mrkd.cli.command import Command, argument, done, print_table
from mrkd.config import EvalConfig, ExecutorName, ScoreConfig, SearchConfig, TrainConfig, reference
from mrkd.config.toml import nearest
from mrkd.errors import ConfigError
from mrkd.run_summary import Summary

if TYPE_CHECKING:
    from mrkd.nights.cost_estimate import Forecast
    from mrkd.runs.executor import ExecutorChoice

RunConfig = TrainConfig | ScoreConfig | EvalConfig


def _executor(config: RunConfig, default: ExecutorName) -> ExecutorChoice:
    from mrkd.runs.choice import executor_of

    return executor_of(default if config.executor == "auto" else config.executor)


def _train(config: TrainConfig, default: ExecutorName) -> Summary:
    from mrkd.runs.train import run

    return run(config, _executor(config, default))


def _tune(config: SearchConfig, default: ExecutorName) -> Summary:
    from mrkd.runs.tune.run import run

    return run(config, _executor(config, default))


def _score(config: ScoreConfig, default: ExecutorName) -> Summary:
    from mrkd.runs.score import run

    return run(config, _executor(config, default))


def _score_days(
    config: ScoreConfig, before: Sequence[ScoreConfig], default: ExecutorName
) -> Summary:
    from mrkd.runs.score import run_days

    return run_days(config, before, _executor(config, default))


def _evaluate(config: EvalConfig, default: ExecutorName) -> Summary:
    from mrkd.runs.evaluate.run import run

    return run(config, _executor(config, default))


def _plan_train(config: TrainConfig) -> Summary:
    from mrkd.training.cost_estimate import forecast

    return _planned(forecast(config), config.run)


def _plan_tune(config: SearchConfig) -> Summary:
    from mrkd.training.cost_estimate import forecast_search

    return _planned(forecast_search(config), config.run)


def _plan_score(config: ScoreConfig) -> Summary:
    from mrkd.nights.cost_estimate import forecast_night

    return _planned(forecast_night(config), config.run)


def _planned(found: Forecast, run: str) -> Summary:
    """Prints an estimate."""
    print("\n".join(found.lines()))
    return found.summary(run)


def _list_spaces(options: argparse.Namespace) -> Summary:
    from mrkd.training.search import spaces

    names = spaces.names()
    rows = [
        {"space": name, "key": key, "from": domain}
        for name in names
        for key, domain in spaces.described(spaces.load(name)).items()
    ]
    print_table(rows)
    return replace(done(options, {"spaces": len(names)}), command="tune --spaces")


@dataclass(frozen=True)
class Verb:
    """A command with a config: its work and, where it can be estimated, the plan of that."""

    help: str
    config: type[RunConfig]
    work: Callable[[Any, ExecutorName], Summary]
    plan: Callable[[Any], Summary] | None = None
    list_spaces: Callable[[argparse.Namespace], Summary] | None = None
    """Lists values of the config, and needs no config itself (`--spaces`)."""
    days: Callable[[Any, Sequence[Any], ExecutorName], Summary] | None = None
    """Its work on a day and on what arrived late for earlier days (`--late-window`)."""


def _print_reference(options: argparse.Namespace) -> None:
    print(reference.markdown({name: verb.config for name, verb in VERBS.items()}), end="")


def _print_schema(options: argparse.Namespace) -> None:
    if options.verb not in VERBS:
        raise ConfigError(f"unknown command {options.verb!r}{nearest(options.verb, list(VERBS))}")
    print(json.dumps(reference.schema(VERBS[options.verb].config), indent=2))


VERBS: Mapping[str, Verb] = {
    "train": Verb(
        "train one model for each category of a data set",
        TrainConfig,
        _train,
        _plan_train,
    ),
    "tune": Verb(
        "search hyperparameters; writes best.toml and a report",
        SearchConfig,
        _tune,
        _plan_tune,
        _list_spaces,
    ),
    "score": Verb(
        "score an archive of images into Parquet, one row for each image",
        ScoreConfig,
        _score,
        _plan_score,
        days=_score_days,
    ),
    "evaluate": Verb(
        "measure models on labelled images: the champions, or those of a benchmark",
        EvalConfig,
        _evaluate,
    ),
}

GROUPS = {"config": "the keys of the config files, for readers and editors"}

COMMANDS: Mapping[str, Command] = {
    "config reference": Command(
        "print every key of every config as Markdown: meaning, default, range and choices",
        _print_reference,
        {},
    ),
    "config schema": Command(
        "print the JSON schema of one command's config, for editors",
        _print_schema,
        {"verb": argument("COMMAND", "train, tune, score or evaluate")},
    ),
}
