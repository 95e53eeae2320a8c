"""Trials of a search on Ray Tune, which finds room for them; a queue draws and ends them."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from ray import cloudpickle, tune
from ray.exceptions import OutOfMemoryError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from mrkd.errors import MemoryShortError, MrkdError
from mrkd.runs.attempts import Attempt, one_line
from mrkd.runs.on_ray import cluster, private
from mrkd.runs.resources import Resources
from mrkd.runs.trials import Report, TrialPlan, TrialQueue
from mrkd.training.search import Trial

_ENVIRONMENT = {
    # Tune's own files of results, which are not needed.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune would handle the signal that ends a search itself.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def run_trials(plan: TrialPlan, trainable: Callable[[Trial, Report], None]) -> None:
    """`Executor.run_trials`, whose trainings are actors of Ray Tune.

    An actor takes the next training when it has ended one by itself, which saves the start of a
    process and its imports. Where rungs end trainings from outside, each has an actor of its own:
    Tune fails the next one if the thread of the last is not gone within 2 s.
    """
    os.environ.update(_ENVIRONMENT)
    # It warns of the files that are switched off above.
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    in_worker = tune.with_parameters(_trial, try_one=trainable, resources=plan.resources)
    driver = _Driver(plan.queue)
    with tempfile.TemporaryDirectory(prefix="mrkd-tune-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(in_worker, plan.resources.by_name),
            tune_config=tune.TuneConfig(
                num_samples=-1,  # the queue says when it is done
                search_alg=_Taken(driver),
                scheduler=_Scheduler(driver),
                max_concurrent_trials=plan.at_once,
                reuse_actors=not plan.queue.has_rungs,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=folder,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=plan.max_failures),
                callbacks=[_Ended(driver)],
            ),
        )
        tuner.fit()
    if driver.error:
        raise driver.error


def end_of(trial: str, error: BaseException | str | None) -> Attempt:
    """The end of a training.

    Args:
        trial: its id.
        error: its error; a text where it was not a task's or an actor's.
    """
    if error is None:
        return Attempt(trial, 1)
    cause = getattr(error, "cause", None) or error
    text = one_line(error) or type(cause).__name__
    kinds = MemoryShortError | torch.OutOfMemoryError | OutOfMemoryError
    short = isinstance(cause, kinds) or private.LOW_MEMORY in text
    return Attempt(trial, 1, error=text, out_of_memory=short)


def _trial(
    config: Mapping[str, Any], try_one: Callable[[Trial, Report], None], resources: Resources
) -> None:
    cluster.enter_worker(resources)
    try_one(_of(config), lambda row: tune.report(dict(row)))
    tune.report({"ended": True})  # Tune prints a line for a trial that has reported nothing


def _of(config: Mapping[str, Any]) -> Trial:
    """The training of a trial of Tune."""
    return Trial(config["category"], dict(config["values"]), config["seed"])


def _error_of(trial: Any) -> Any:
    """The error of a trial of Tune; its text where it was not a task's or an actor's.

    Its files are read where Tune wrote them: it copies them to its storage later.
    """
    if trial.status != "ERROR":
        return None
    if trial.pickled_error_file:
        return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    return Path(trial.error_file).read_text()


class _Driver:
    """Queue between the parts of Tune, which call it in one thread.

    Attributes:
        error: first failure of storage, which ends the search once the trainings under way ended;
            Tune would take it for that of a trial.
    """

    def __init__(self, queue: TrialQueue) -> None:
        self.queue = queue
        self.error: MrkdError | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune stores its parts for a resumption of its own, which no search makes."""
        return {}

    def take(self) -> Any:
        """The next config of Tune, or why there is none."""
        if self.error or self.queue.is_done:
            return Searcher.FINISHED
        one = self.queue.take()
        return one and {"category": one.category, "values": dict(one.values), "seed": one.seed}

    def end(self, trial: Any) -> None:
        """Takes the end of a trial of Tune."""
        try:
            self.queue.end(_of(trial.config), end_of(trial.trial_id, _error_of(trial)))
        except MrkdError as failed:
            self.error = self.error or failed


class _Taken(Searcher):
    """Gives Tune the trainings of a queue."""

    def __init__(self, driver: _Driver) -> None:
        super().__init__()
        self._driver = driver

    def suggest(self, trial_id: str) -> Any:
        """The config of a trial; None where another has to end first."""
        return self._driver.take()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Does nothing: `_Ended` knows the error too."""


class _Scheduler(FIFOScheduler):
    """Ends trainings at the rungs of their group."""

    def __init__(self, driver: _Driver) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._driver = driver

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a trial goes on; the last result of all holds no report."""
        if "epoch" not in result:
            return TrialScheduler.CONTINUE
        epoch, objective = result["epoch"], result["objective"]
        ends = self._driver.queue.is_below(_of(trial.config), epoch, objective)
        return TrialScheduler.STOP if ends else TrialScheduler.CONTINUE


class _Ended(tune.Callback):
    """Tells of each trial that has ended."""

    def __init__(self, driver: _Driver) -> None:
        self._driver = driver

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Tells of a trial that came to its end, or was ended at a rung."""
        self._driver.end(trial)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Tells of a trial whose process crashed for the last time."""
        self._driver.end(trial)
