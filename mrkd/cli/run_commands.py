"""The commands with a config: what each one does, and what else it can say of it.

Nothing heavy is imported before one runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mrkd.cli import model_commands
from mrkd.config import EvalConfig, ScoreConfig, SearchConfig, TrainConfig
from mrkd.run_summary import Summary, now

RunConfig = TrainConfig | ScoreConfig | EvalConfig


def _train(config: TrainConfig) -> Summary:
    from mrkd.on_ray.train import run as train

    return train.run(config)


def _tune(config: SearchConfig) -> Summary:
    from mrkd.on_ray.tune import run as tune

    return tune.run(config)


def _score(config: ScoreConfig) -> Summary:
    from mrkd.on_ray.score import run as score

    return score.run(config)


def _late(first: Summary, nights: Sequence[ScoreConfig]) -> Summary:
    from mrkd.on_ray.score import run as score

    return score.run_late(first, nights)


def _evaluate(config: EvalConfig) -> Summary:
    from mrkd.on_ray.evaluate import run as evaluate

    return evaluate.run(config)


def _plan_train(config: TrainConfig) -> Summary:
    from mrkd.training.cost_estimate import forecast

    found = forecast(config)
    print("\n".join(found.lines()))
    return found.summary(config.run)


def _plan_tune(config: SearchConfig) -> Summary:
    from mrkd.training.cost_estimate import forecast_search

    found = forecast_search(config)
    print("\n".join(found.lines()))
    return found.summary(config.run)


def _spaces() -> Summary:
    from mrkd.on_ray.tune import spaces

    started_at = now()
    rows = [
        {"space": name, "key": key, "from": domain}
        for name in spaces.names()
        for key, domain in spaces.described(spaces.load(name)).items()
    ]
    model_commands.print_table(rows)
    return model_commands.done("tune --spaces", started_at, {"spaces": len(spaces.names())})


def _plan_score(config: ScoreConfig) -> Summary:
    from mrkd.nights.cost_estimate import forecast_night

    found = forecast_night(config)
    print("\n".join(found.lines()))
    return found.summary(config.run)


@dataclass(frozen=True)
class Listing:
    """A flag of a verb that needs no config: it lists what may stand in one."""

    name: str
    help: str
    work: Callable[[], Summary]


@dataclass(frozen=True)
class Verb:
    """A command with a config: what it does and, where it can say beforehand, what that takes."""

    help: str
    config: type[RunConfig]
    work: Callable[[Any], Summary]
    plan: Callable[[Any], Summary] | None = None
    listing: Listing | None = None
    late: Callable[[Summary, Sequence[Any]], Summary] | None = None
    """Of a verb with `--date`: adds to a day's verdict what came late for the days before it."""


VERBS: Mapping[str, Verb] = {
    "train": Verb("one model for each category of a data set", TrainConfig, _train, _plan_train),
    "tune": Verb(
        "the config that serves best, searched on Ray Tune, with a page",
        SearchConfig,
        _tune,
        _plan_tune,
        Listing("spaces", "list the search spaces with their keys and stop", _spaces),
    ),
    "score": Verb(
        "an archive of images to rows in Parquet", ScoreConfig, _score, _plan_score, late=_late
    ),
    "evaluate": Verb(
        "how good models are on labelled images, the champions or a table", EvalConfig, _evaluate
    ),
}
