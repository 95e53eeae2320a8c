"""A search on Ray Tune: trials, the best of them again with other seeds, the winner on a test.

A trial is `trial.try_all`, which trains by the fleet's own `train_category`; Tune draws the configs
and, at rungs, ends trials. What has been trained is kept by `mrkd/searches/`, not by Tune: a search
that was killed draws the same configs, and a trial that has ended answers at once.
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
from ray.exceptions import OutOfMemoryError
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from mrkd import reports
from mrkd.config import SearchConfig
from mrkd.data.datasets import Sample
from mrkd.errors import CategoryError, ConfigError
from mrkd.nights.reviews.training_samples import load_samples
from mrkd.on_ray import cluster, shared_features
from mrkd.on_ray.recorded_run import RecordedRun
from mrkd.on_ray.tune import refit, spaces, trial
from mrkd.on_ray.tune.refit import RefitResult
from mrkd.on_ray.tune.spaces import Space
from mrkd.on_ray.tune.trial import TrialTask
from mrkd.run_summary import Summary
from mrkd.training.category import inputs_of_all
from mrkd.training.search import Search, Trial

log = logging.getLogger(__name__)

_JOINT = "joint"
_ENVIRONMENT = {
    # Its own files of results, into a folder that nobody reads.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # It would keep the signal that ends a search for itself.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def run(config: SearchConfig) -> Summary:
    """Searches, and writes trials, page and `best.toml`; the same call goes on where one was ended.

    Raises:
        ConfigError: data, space or cluster cannot serve; nothing was started.
        TeacherError: there are no such teacher weights.
        StorageError: the workspace cannot be read or written.
    """
    samples = load_samples(config)
    space = spaces.load(config.search.space)
    spaces.check(space, config)
    _check(config, space, samples)
    search = Search(config)
    with RecordedRun("tune", config.run, search.uri) as verdict, cluster.connect():
        order = _order(config, samples)
        search.begin()
        try:
            with cluster.stoppable():
                groups = _groups(config, samples)
                for name, some in groups.items():
                    _search(order, name, some, space)
                found = refit.find(order, list(groups.values()))
        except KeyboardInterrupt:
            reason = "the search was stopped: start it again to go on"
            return verdict.end(1, reasons=[reason])
        finally:
            shared_features.forget(order.features_folder)
        return _close(order, found, space, verdict)


def _check(config: SearchConfig, space: Space, samples: Mapping[str, Sequence[Sample]]) -> None:
    """Refuses what would fail in every trial of a kind: no such weights, level or label."""
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


def _order(config: SearchConfig, samples: Mapping[str, Sequence[Sample]]) -> TrialTask:
    options = config.search
    ask = cluster.worker_ask(
        cluster.nodes(),
        cpus=config.fleet.cpus_per_worker,
        gpus=config.fleet.gpus_per_worker,
        device=config.train.device,
        num_workers=options.trials_at_once or options.trials,
    )
    return TrialTask(config, samples, ask, shared_features.folder_of(Search(config).uri))


def _groups(config: SearchConfig, samples: Mapping[str, Sequence[Sample]]) -> dict[str, list[str]]:
    """What is searched together: each category by itself, or all of them."""
    if config.search.scope == "joint":
        return {_JOINT: list(samples)}
    return {name: [name] for name in samples}


def _search(order: TrialTask, name: str, categories: Sequence[str], space: Space) -> None:
    """The trials of a group, each ended in the search's folder when this returns."""
    config, options, search = order.config, order.config.search, order.search
    seed = config.train.seed
    if _num_tried(search, categories, seed) >= options.trials:
        return
    os.environ.update(_ENVIRONMENT)
    # It misses the files that are switched off above.
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    one = replace(order, samples={c: order.samples[c] for c in categories})
    ask = {"CPU": order.ask.cpus} | ({"GPU": order.ask.gpus} if order.ask.gpus else {})
    with tempfile.TemporaryDirectory(prefix="mrkd-tune-") as folder, warnings.catch_warnings():
        # Optuna's of choices that are lists, which it keeps as they are.
        warnings.simplefilter("ignore", UserWarning)
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_trainable, order=one), ask),
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
    for number in range(len(grid)):
        result = grid[number]
        for category in categories:
            _end(search, Trial(category, dict(result.config or {}), seed), result.error)


def _num_tried(search: Search, categories: Sequence[str], seed: int) -> int:
    """Configs whose trials have all ended."""
    mine = [one for one in search.trials() if one.seed == seed and one.category in categories]
    return sum(n == len(categories) for n in Counter(one.key for one in mine).values())


def _trainable(values: Mapping[str, Any], order: TrialTask) -> None:
    trial.try_all(order, values, order.config.train.seed, lambda row: tune.report(dict(row)))


def _end(search: Search, begun: Trial, error: BaseException | None) -> None:
    """Says of a trial that did not end by itself why: its process died, or a rung ended it."""
    stored = search.get(begun.category, begun.key, begun.seed) or begun
    if stored.has_ended:
        return
    stored.state = "pruned"
    if error is not None:
        stored.error = " ".join(str(error).split())[-500:]
        lost = isinstance(error, OutOfMemoryError) or "OutOfMemoryError" in str(error)
        stored.state = "out_of_memory" if lost else "failed"
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
        """One that came to its end, or was ended at a rung."""
        self._best = max(self._best, float((trial.last_result or {}).get("objective", 0.0)))
        self._tell()

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """One whose process died for the last time."""
        self._tell()

    def _tell(self) -> None:
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
    order: TrialTask, found: Sequence[RefitResult], space: Space, verdict: RecordedRun
) -> Summary:
    """Table, best config, page and verdict."""
    config, search = order.config, order.search
    trials = search.trials()
    keys = list(space)
    uris = {"trials": search.put_table(trials, keys)}
    log_keys = spaces.log_keys(space)
    groups = [one.to_dict(trials, config.train.seed, log_keys) for one in found]
    lost = [name for one in found if one.winner is None for name in one.categories]
    if len(lost) < len(order.samples):
        uris["best"] = search.put_best(
            {name: one.values for one in found for name in one.categories if one.winner},
            joint=config.search.scope == "joint",
        )
    search.store(
        {
            "state": "done",
            "space": spaces.described(space),
            "log_keys": log_keys,
            "groups": groups,
        }
    )
    search.clear()
    uris["report"] = reports.write_page(search.uri)
    states = Counter(one.state for one in trials)
    num_search = sum(one.seed == config.train.seed for one in trials)
    counts = {
        "categories": len(order.samples),
        "trials": num_search,
        "refits": len(trials) - num_search,
        **{state: states[state] for state in ("done", "pruned", "failed", "out_of_memory")},
    }
    too_many = len(lost) > config.fleet.max_failed_share * len(order.samples)
    return verdict.end(
        3 if too_many else 0,
        counts=counts,
        uris=uris,
        reasons=[f"category {name}: no trial came to its end; see trials.parquet" for name in lost],
    )
