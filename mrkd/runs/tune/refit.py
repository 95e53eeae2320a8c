"""Refits of a search: trains its best configs again with other seeds, and tests the winners."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from mrkd.errors import CategoryError
from mrkd.runs.executor import Executor
from mrkd.runs.resources import Resources
from mrkd.runs.tune import trial
from mrkd.runs.tune.trial import TrialTask
from mrkd.training.search import Trial, comparable, importances, key_of, objectives, ranked

log = logging.getLogger(__name__)

DEFAULT = key_of({})
"""Name of the config that a search begins with."""


@dataclass(frozen=True)
class RefitResult:
    """The winner of a group of categories.

    Args:
        categories: names of the categories, which share a config.
        best: refitted configs with their mean rank, the best first.
        values: values of the winner by dotted key; empty where it is the default, or None.
        winner: name of the winner's config; None where every training failed.
        tests: `trial.test` of each category.
        untested: reason of each category that could not be tested.
    """

    categories: Sequence[str]
    best: Sequence[tuple[str, float]]
    values: Mapping[str, Any]
    winner: str | None
    tests: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    untested: dict[str, str] = field(default_factory=dict)

    def to_dict(
        self, trials: Sequence[Trial], seed: int, log_keys: Collection[str]
    ) -> dict[str, Any]:
        """Plain values for `search.json`, with the importance of each key of the space.

        `seed` is that of the search's own trainings, `log_keys` are drawn on a log scale.
        """
        tried = [one for one in trials if one.seed == seed and one.category in self.categories]
        found, _ = comparable(tried, self.categories)
        values = {one.key: one.values for one in tried}
        shares, why_not = importances(
            [values[key] for key in found], list(found.values()), log_keys
        )
        return {
            "categories": list(self.categories),
            "winner": self.winner,
            "values": dict(self.values),
            "best": [{"config": key, "mean_rank": rank} for key, rank in self.best],
            "default": DEFAULT,
            "tests": {name: dict(test) for name, test in self.tests.items()},
            "importance": shares,
            "no_importance": why_not,
        }


def find(
    task: TrialTask,
    groups: Sequence[Sequence[str]],
    executor: Executor,
    resources: Resources,
) -> list[RefitResult]:
    """Trains the best of each group and the default with other seeds, and tests the winners.

    Raises:
        CategoryError: not one category could be tested.
    """
    search, options = task.search, task.config.search
    tried = [one for one in search.trials() if one.seed == task.config.train.seed]
    values = {one.key: one.values for one in tried} | {DEFAULT: {}}
    chosen: list[list[str]] = []
    for categories in groups:
        mine = [one for one in tried if one.category in categories]
        keys = [key for key, _ in ranked(objectives(mine), categories)[: options.refit_best]]
        chosen.append([*keys, *([DEFAULT] if DEFAULT not in keys else [])])
    first = task.config.train.seed + 1
    wanted = [
        Trial(category, values[key], first + n)
        for n in range(options.refit_seeds)
        for categories, keys in zip(groups, chosen, strict=True)
        for key in keys
        for category in categories
    ]
    refits = _train(task, wanted, executor, resources)
    found = []
    for categories, keys in zip(groups, chosen, strict=True):
        mine = [one for one in refits if one.category in categories and one.key in keys]
        best = ranked(objectives(mine), categories)
        winner = best[0][0] if best else None
        own = values[winner] if winner else {}
        found.append(RefitResult(categories, best, own, winner))
    refits = _with_models(task, found, refits, executor, resources)
    tests, untested = _test(task, found, refits, executor, resources)
    if untested and not tests:
        name, error = next(iter(untested.items()))
        raise CategoryError(f"category {name} cannot be tested: {error}")
    for one in found:
        one.tests.update((name, tests[name]) for name in one.categories if name in tests)
        one.untested.update((name, untested[name]) for name in one.categories if name in untested)
    return found


def _with_models(
    task: TrialTask,
    found: Sequence[RefitResult],
    refits: Sequence[Trial],
    executor: Executor,
    resources: Resources,
) -> list[Trial]:
    """The refits; those that a test needs and whose model an earlier end removed, trained again.

    A search that goes on after its end, with more trials or time, may have another winner.
    """
    search = task.search
    lacking = [
        trial
        for one in found
        for trial in refits
        if one.winner
        and trial.category in one.categories
        and trial.key in (one.winner, DEFAULT)
        and trial.state == "done"
        and search.get_test(trial.category, one.winner) is None
        and not search.has_model(trial)
    ]
    for one in lacking:
        search.drop(one)
    kept = [one for one in refits if one not in lacking]
    again = [Trial(one.category, one.values, one.seed) for one in lacking]
    return [*kept, *_train(task, again, executor, resources)]


def _train(
    task: TrialTask, wanted: Sequence[Trial], executor: Executor, resources: Resources
) -> list[Trial]:
    """The wanted trainings, ended; those that are stored are not repeated."""
    search, fleet = task.search, task.config.fleet
    stored = [search.get(one.category, one.key, one.seed) for one in wanted]
    ended = [one for one in stored if one and one.has_ended]
    todo = {
        f"{one.category}-{one.key}-{one.seed}": one
        for one, before in zip(wanted, stored, strict=True)
        if before is None or not before.has_ended
    }
    # Closed also where the caller keeps an error, and with it this frame.
    with closing(
        executor.run_each(
            trial.try_one,
            {name: (one,) for name, one in todo.items()},
            resources,
            shared=task,
            max_failures=fleet.max_failures,
            backoff_s=fleet.backoff_s,
            at_once=task.config.search.trials_at_once or None,
        )
    ) as attempts:
        for attempt in attempts:
            if not attempt.last:
                continue
            one = attempt.result or todo[attempt.category]
            if attempt.error:
                trial.fail(one, attempt.error, out_of_memory=attempt.out_of_memory)
                search.put(one)
            ended.append(one)
            log.info(
                "refit config=%s state=%s done=%d of=%d",
                one.key,
                one.state,
                len(ended),
                len(wanted),
            )
    return ended


def _test(
    task: TrialTask,
    found: Sequence[RefitResult],
    refits: Sequence[Trial],
    executor: Executor,
    resources: Resources,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The tests of winners and default by category, and the reasons of those that failed."""
    search = task.search
    tests: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    arguments: dict[str, tuple[Any, ...]] = {}
    winners = {name: one.winner for one in found for name in one.categories if one.winner}
    for name, winner in winners.items():
        if stored := search.get_test(name, winner):
            tests[name] = stored
            continue
        done = [t for t in refits if t.category == name and t.state == "done"]
        sides = {"winner": winner, "default": DEFAULT}
        models = {side: [t for t in done if t.key == key] for side, key in sides.items()}
        arguments[name] = (name, models)
    for attempt in executor.run_each(
        trial.test,
        arguments,
        resources,
        shared=task,
        max_failures=task.config.fleet.max_failures,
    ):
        if attempt.last and attempt.error:
            failed[attempt.category] = attempt.error
        elif attempt.last:
            tests[attempt.category] = attempt.result
            search.put_test(attempt.category, winners[attempt.category], attempt.result)
    return tests, failed
