"""Search: trials, refits of the best with other seeds, and a test of the winner.

A trial is `trial.try_one` for a category, or for each of them under `scope = "joint"`, which trains
by the fleet's own `train_category`. Results are kept by `mrkd/training/search/`, not by the
executor: a search that was killed draws the same configs (`queue.py`), and those that have ended
are not tried again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from mrkd import reports, storage
from mrkd.config import SearchConfig
from mrkd.config.tune import SearchOptions
from mrkd.data.datasets import Listing, Sample
from mrkd.errors import CategoryError, ConfigError
from mrkd.nights.reviews.training_samples import load_samples
from mrkd.run_summary import Summary, some_of
from mrkd.runs import shared_features
from mrkd.runs.executor import Executor, ExecutorChoice
from mrkd.runs.recorded_run import RecordedRun, recorded_run
from mrkd.runs.resources import Resources, fleet_resources
from mrkd.runs.trials import Rungs, TrialPlan
from mrkd.runs.tune import refit, trial
from mrkd.runs.tune.queue import Group, Queue
from mrkd.runs.tune.refit import RefitResult
from mrkd.runs.tune.trial import TrialTask
from mrkd.training.category import inputs_of_all
from mrkd.training.cost_estimate import search_seconds
from mrkd.training.search import Search, Trial, spaces
from mrkd.training.search.sampler import sampler_of
from mrkd.training.search.spaces import Space

log = logging.getLogger(__name__)


def run(config: SearchConfig, executor: ExecutorChoice) -> Summary:
    """Searches, and writes trials, page and `best.toml`; the same call goes on after an end.

    Raises:
        ConfigError: the data, the space or the cluster are unsuitable; nothing was started.
        TeacherError: the teacher weights do not exist.
        CategoryError: not one category could be tested.
        StoppedError: a signal ended it; the same command goes on.
        StorageError: the workspace cannot be read or written.
    """
    samples = load_samples(config)
    space = spaces.load(config.search.space)
    spaces.check(space, config)
    _check(config, space, samples)
    search = Search(config)
    executor = executor.for_work(lambda: search_seconds(config, samples))
    with (
        recorded_run("tune", config.run, search.uri) as record,
        executor.connected("run_trials"),
        shared_features.shared_folder(executor, search.uri) as features_folder,
    ):
        options = config.search
        resources = fleet_resources(executor.nodes, config, _num_at_once(options, len(samples)))
        task = TrialTask(config, samples, features_folder)
        search.begin(_made_of(config, space, samples))
        groups = [list(samples)] if options.scope == "joint" else [[name] for name in samples]
        ended_early = _search(task, groups, space, executor, resources)
        found = refit.find(task, groups, executor, resources)
        return _close(task, found, space, record, samples, ended_early)


def _num_at_once(options: SearchOptions, num_categories: int) -> int:
    """Most trainings that the config allows at one time."""
    most = options.trials
    if options.searcher == "tpe":
        most = min(most, options.draws_ahead)
    return options.trials_at_once or most * num_categories


def _made_of(
    config: SearchConfig, space: Space, samples: Mapping[str, Sequence[Sample]]
) -> dict[str, str]:
    """Digests of what the config only names: trials on other content are not comparable."""
    listing = sorted(
        (one.image_uri, one.etag, one.split, one.gt_label, one.group or "")
        for some in samples.values()
        for one in some
    )
    found = {
        "search.space": spaces.digest(config.search.space, space),
        "data.root": hashlib.sha256(json.dumps(listing).encode()).hexdigest(),
    }
    configs = config.base().for_categories(list(samples))
    files = {"model.weights": config.model.weights, "roi.mask": config.roi.mask}
    for name, own in configs.items():
        files[f"category.{name}.model.weights"] = own.model.weights
        files[f"category.{name}.roi.mask"] = own.roi.mask
    entries = {key: storage.stat(uri) for key, uri in files.items() if "/" in uri}
    return found | {key: entry.etag for key, entry in entries.items() if entry}


def _check(config: SearchConfig, space: Space, samples: Mapping[str, Sequence[Sample]]) -> None:
    """Refuses what would fail in every trial: missing weights, a missing level or label."""
    for pattern, table in config.category.items():
        for key in space:
            section, _, name = key.partition(".")
            if name in table.get(section, {}):
                raise ConfigError(
                    f"category.{pattern!r}.{key} is set, and search.space varies it: drop one"
                )
    for backbone in spaces.choices(space, "model.backbone") or [config.model.backbone]:
        one = config.trial({"model.backbone": backbone}, config.train.seed)
        inputs_of_all(one.for_categories(list(samples)), samples)
    for name, some in samples.items():
        try:
            trial.by(config, some)
        except CategoryError as error:
            raise ConfigError(f"category {name}: {error}") from error


def _search(
    task: TrialTask,
    groups: Sequence[Sequence[str]],
    space: Space,
    executor: Executor,
    resources: Resources,
) -> str:
    """The trials of all groups of categories, which share the room of the cluster.

    Returns:
        One line where `search.time_budget` ended the search; else empty.
    """
    config, options, search = task.config, task.config.search, task.search
    left_s = options.budget_s - search.get_spent_s()
    of_groups = [_group(options, space, categories) for categories in groups]
    queue = Queue(search, of_groups, left_s=left_s)
    plan = TrialPlan(queue, resources, options.trials_at_once or None, config.fleet.max_failures)
    if not queue.is_done:
        executor.run_trials(plan, partial(_trainable, task, time.time() + left_s))
    num_ended, num = queue.count()
    if num_ended == num:
        return ""
    return (
        f"search.time_budget ({options.time_budget}) ended the search after {num_ended} of {num} "
        "trials: start it again with a larger one to go on"
    )


def _group(options: SearchOptions, space: Space, categories: Sequence[str]) -> Group:
    joint = options.scope == "joint"
    sampler = sampler_of(options, space)
    with_rungs = options.scheduler == "asha" and not joint
    return Group(
        categories,
        sampler,
        options.trials,
        options.draws_ahead if sampler.learns else None,
        Rungs(options.grace_epochs, options.reduction) if with_rungs else None,
        _Progress("joint" if joint else categories[0], options.trials),
    )


def _trainable(task: TrialTask, until: float, one: Trial, report: trial.Tell) -> None:
    """A training; none where it waited for room until the time, by the clock, was up."""
    if time.time() < until or task.search.get(one.category, one.key, one.seed):
        trial.try_one(task, one, report)


class _Progress:
    """A line whenever a trial ends."""

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total = name, total
        self._ended, self._best, self._began = 0, 0.0, time.monotonic()

    def __call__(self, objective: float) -> None:
        self._ended, self._best = self._ended + 1, max(self._best, objective)
        log.info(
            "search group=%s trials=%d of=%d best=%.4f eta=%.0fs",
            self._name,
            self._ended,
            self._total,
            self._best,
            (time.monotonic() - self._began) * (self._total / self._ended - 1),
        )


def _close(
    task: TrialTask,
    found: Sequence[RefitResult],
    space: Space,
    record: RecordedRun,
    samples: Listing,
    ended_early: str,
) -> Summary:
    """Writes the table, the best config, the page and the summary."""
    config, search = task.config, task.search
    trials = search.trials()
    uris = {"trials": search.put_table(trials, list(space))}
    log_keys = spaces.log_keys(space)
    groups = [one.to_dict(trials, config.train.seed, log_keys) for one in found]
    lost = [name for one in found if one.winner is None for name in one.categories]
    untested = {name: error for one in found for name, error in one.untested.items()}
    if len(lost) < len(task.samples):
        uris["best"] = search.put_best(
            {name: one.values for one in found for name in one.categories if one.winner},
            joint=config.search.scope == "joint",
        )
    facts = {"space": spaces.described(space), "log_keys": log_keys, "groups": groups}
    search.store({"state": "done", "ended_early": ended_early, **facts})
    if not untested:  # else the next start tests again
        search.clear()
    uris["report"] = reports.write_page(search.uri)
    states = Counter(one.state for one in trials)
    num_search = sum(one.seed == config.train.seed for one in trials)
    counts = {
        "categories": len(samples) + len(samples.failed),
        "trials": num_search,
        "refits": len(trials) - num_search,
        **{state: states[state] for state in ("done", "pruned", "failed", "out_of_memory")},
    }
    failed = len(lost) + len(untested) + len(samples.failed)
    return record.end(
        3 if failed > config.fleet.max_failed_share * counts["categories"] else 0,
        counts=counts,
        uris=uris,
        reasons=[
            *some_of(samples.reasons),
            *([ended_early] if ended_early else []),
            *(f"category {name}: every trial failed; see trials.parquet" for name in lost),
            *(f"category {name} cannot be tested: {error}" for name, error in untested.items()),
        ],
    )
