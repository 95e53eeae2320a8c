"""Trials of a search on Ray Tune, which schedules them and ends some at rungs (ASHA)."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Generator, Mapping
from typing import Any

import torch
from ray import tune
from ray.exceptions import OutOfMemoryError
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import Searcher

from mrkd.errors import MemoryShortError
from mrkd.runs.attempts import Attempt, one_line
from mrkd.runs.on_ray import cluster, private
from mrkd.runs.resources import Resources
from mrkd.runs.trials import Report, Rungs, TrialPlan
from mrkd.training.search.sampler import Sampler

_ENVIRONMENT = {
    # Tune's own files of results, which are not needed.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune would handle the signal that ends a search itself.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def run_trials(
    plan: TrialPlan, trainable: Callable[[Mapping[str, Any], Report], None]
) -> Generator[Attempt, None, None]:
    """`Executor.run_trials`, whose trials are actors of Ray Tune."""
    os.environ.update(_ENVIRONMENT)
    # It warns of the files that are switched off above.
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    in_worker = tune.with_parameters(_trial, try_config=trainable, resources=plan.resources)
    with tempfile.TemporaryDirectory(prefix="mrkd-tune-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(in_worker, plan.resources.by_name),
            tune_config=tune.TuneConfig(
                metric="objective",
                mode="max",
                num_samples=plan.num_trials,
                search_alg=_Sampled(plan.sampler),
                scheduler=_scheduler(plan.rungs),
                max_concurrent_trials=plan.at_once,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=folder,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=plan.max_failures),
                callbacks=[_Ended(plan.ended)],
            ),
        )
        grid = tuner.fit()
    for number, result in enumerate(grid[n] for n in range(len(grid))):
        yield end_of(str(number), result.config or {}, result.error)


def end_of(trial: str, values: Mapping[str, Any], error: BaseException | None) -> Attempt:
    """The end of a trial.

    Args:
        trial: number of the trial.
        values: its drawn values.
        error: error of the trial; a text where it was not a task's or an actor's.
    """
    if error is None:
        return Attempt(trial, 1, dict(values))
    cause = getattr(error, "cause", None) or error
    text = one_line(error) or type(cause).__name__
    kinds = MemoryShortError | torch.OutOfMemoryError | OutOfMemoryError
    short = isinstance(cause, kinds) or private.LOW_MEMORY in text
    return Attempt(trial, 1, dict(values), error=text, out_of_memory=short)


def _trial(
    values: Mapping[str, Any],
    try_config: Callable[[Mapping[str, Any], Report], None],
    resources: Resources,
) -> None:
    cluster.enter_worker(resources)
    try_config(values, lambda row: tune.report(dict(row)))


class _Sampled(Searcher):
    """Gives Tune the configs that a sampler draws."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__(metric="objective", mode="max")
        self._sampler = sampler

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The values of a trial."""
        return self._sampler.ask(trial_id)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Takes the end of a trial."""
        self._sampler.tell(trial_id, (result or {}).get("objective"))


def _scheduler(rungs: Rungs | None) -> Any:
    if rungs is None:
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    return ASHAScheduler(
        time_attr="epoch",
        max_t=10**6,  # a training ends by itself
        grace_period=rungs.grace,
        reduction_factor=rungs.reduction,
    )


class _Ended(tune.Callback):
    """Tells of each trial that has ended."""

    def __init__(self, ended: Callable[[float], None]) -> None:
        self._ended = ended

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Tells of a trial that came to its end, or was ended at a rung."""
        self._ended(float((trial.last_result or {}).get("objective", 0.0)))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Tells of a trial whose process crashed for the last time."""
        self._ended(0.0)
