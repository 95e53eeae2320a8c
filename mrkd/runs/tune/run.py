"""Search on Ray Tune: trials, refits of the best with other seeds, and a test of the winner.

A trial is `trial.try_all`, which trains by the fleet's own `train_category`; Tune draws the configs
and, at rungs, ends trials. Results are kept by `mrkd/training/search/`, not by Tune: a search that
was killed draws the same configs, and a trial that has ended answers at once.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from mrkd import reports
from mrkd.config import SearchConfig
from mrkd.data.datasets import Sample
from mrkd.errors import CategoryError, ConfigError
from mrkd.nights.reviews.training_samples import load_samples
from mrkd.run_summary import Summary
from mrkd.runs import shared_features
from mrkd.runs.on_ray import cluster
from mrkd.runs.recorded_run import RecordedRun, recorded_run
from mrkd.runs.tune import refit, trial
from mrkd.runs.tune.refit import RefitResult
from mrkd.runs.tune.trial import TrialTask
from mrkd.training.category import inputs_of_all
from mrkd.training.search import Search, Trial, spaces
from mrkd.training.search.spaces import Space

log = logging.getLogger(__name__)

_ENVIRONMENT = {
    # Tune's own files of results, which are not needed.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune would handle the signal that ends a search itself.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def run(config: SearchConfig) -> Summary:
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
    with (
        recorded_run("tune", config.run, search.uri) as record,
        cluster.connect(),
        shared_features.shared_folder(search.uri) as features_folder,
    ):
        options = config.search
        resources = cluster.fleet_resources(config, options.trials_at_once or options.trials)
        task = TrialTask(config, samples, resources, features_folder)
        search.begin()
        groups = [list(samples)] if options.scope == "joint" else [[name] for name in samples]
        for group in groups:
            _search(task, group, space)
        found = refit.find(task, groups)
        return _close(task, found, space, record)


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


def _search(task: TrialTask, categories: Sequence[str], space: Space) -> None:
    """The trials of categories that share a config, ended in the search's folder afterwards."""
    config, options, search = task.config, task.config.search, task.search
    seed, name = config.train.seed, "joint" if options.scope == "joint" else categories[0]
    mine = [one for one in search.trials() if one.seed == seed and one.category in categories]
    num_of = Counter(one.key for one in mine)
    if sum(number == len(categories) for number in num_of.values()) >= options.trials:
        return
    os.environ.update(_ENVIRONMENT)
    # It warns of the files that are switched off above.
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    one = replace(task, samples={c: task.samples[c] for c in categories})
    with tempfile.TemporaryDirectory(prefix="mrkd-tune-") as folder, warnings.catch_warnings():
        # Optuna warns of choices that are lists, which it keeps unchanged.
        warnings.simplefilter("ignore", UserWarning)
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_trainable, task=one), one.resources.by_name),
            param_space=dict(space),
            tune_config=tune.TuneConfig(
                metric="objective",
                mode="max",
                num_samples=options.trials,
                search_alg=_searcher(config),
                scheduler=_scheduler(config),
                max_concurrent_trials=options.trials_at_once or None,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=folder,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=config.fleet.max_failures),
                callbacks=[_Progress(name, options.trials)],
            ),
        )
        grid = tuner.fit()
    for result in (grid[number] for number in range(len(grid))):
        for category in categories:
            end_trial(search, Trial(category, dict(result.config or {}), seed), result.error)


def _trainable(values: Mapping[str, Any], task: TrialTask) -> None:
    trial.try_all(task, values, task.config.train.seed, lambda row: tune.report(dict(row)))


def end_trial(search: Search, begun: Trial, error: BaseException | str | None) -> None:
    """Ends a trial that did not end by itself: an error ended its process, or a rung the trial."""
    stored = search.get(begun.category, begun.key, begun.seed) or begun
    if stored.has_ended:
        return
    stored.state = "pruned"
    if error is not None:
        trial.fail(stored, error)
    search.put(stored)


def _searcher(config: SearchConfig) -> Any:
    options = config.search
    if options.searcher == "random":
        return BasicVariantGenerator(random_state=options.seed)
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "search.searcher is tpe, which Optuna draws: pip install 'mrkd[tune]', or set random"
        ) from error
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return OptunaSearch(seed=options.seed)


def _scheduler(config: SearchConfig) -> Any:
    options = config.search
    if options.scheduler == "none" or options.scope == "joint":
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    return ASHAScheduler(
        time_attr="epoch",
        max_t=10**6,  # a training ends by itself
        grace_period=options.grace_epochs,
        reduction_factor=options.reduction,
    )


class _Progress(tune.Callback):
    """A line whenever a trial ends."""

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total = name, total
        self._ended, self._best, self._began = 0, 0.0, time.monotonic()

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Counts a trial that came to its end, or was ended at a rung."""
        self._best = max(self._best, float((trial.last_result or {}).get("objective", 0.0)))
        self.on_trial_error(iteration, trials, trial)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Counts a trial whose process crashed for the last time."""
        self._ended += 1
        eta_s = (time.monotonic() - self._began) * (self._total / self._ended - 1)
        log.info(
            "search group=%s trials=%d of=%d best=%.4f eta=%.0fs",
            self._name,
            self._ended,
            self._total,
            self._best,
            eta_s,
        )


def _close(
    task: TrialTask, found: Sequence[RefitResult], space: Space, record: RecordedRun
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
    search.store({"state": "done", **facts})
    if not untested:  # else the next start tests again
        search.clear()
    uris["report"] = reports.write_page(search.uri)
    states = Counter(one.state for one in trials)
    num_search = sum(one.seed == config.train.seed for one in trials)
    counts = {
        "categories": len(task.samples),
        "trials": num_search,
        "refits": len(trials) - num_search,
        **{state: states[state] for state in ("done", "pruned", "failed", "out_of_memory")},
    }
    failed = len(lost) + len(untested)
    return record.end(
        3 if failed > config.fleet.max_failed_share * len(task.samples) else 0,
        counts=counts,
        uris=uris,
        reasons=[
            *(f"category {name}: every trial failed; see trials.parquet" for name in lost),
            *(f"category {name} cannot be tested: {error}" for name, error in untested.items()),
        ],
    )
