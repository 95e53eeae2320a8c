"""One Ray task for each category; the failure of one does not end the others."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from mrkd.runs.attempts import Attempt, attempts, failed, one_line
from mrkd.runs.on_ray import cluster
from mrkd.runs.resources import Resources

Ref = ray.ObjectRef[Any]


def run_each(
    function: Callable[..., Any],
    arguments: Mapping[str, tuple[Any, ...]],
    resources: Resources,
    *,
    max_failures: int,
    backoff_s: float = 0.0,
    at_once: int | None = None,
    environment: Mapping[str, str] | None = None,
    held: Resources | None = None,
) -> Generator[Attempt, None, None]:
    """`Executor.run_each` in tasks; Ray queues those that do not fit.

    Args:
        function: function that is called with a category's arguments.
        arguments: arguments by category.
        resources: resources that each call computes with.
        max_failures: number of further starts of a category.
        backoff_s: seconds before the first of them.
        at_once: calls under way at one time; None: all.
        environment: environment variables of the calls and of the processes that they start.
        held: resources that each task holds, where other processes compute; None: `resources`.
    """
    held = held or resources
    # Retried here, not by Ray, so that every attempt is seen and counted.
    task = ray.remote(_in_worker).options(
        num_cpus=held.cpus,
        num_gpus=held.gpus,
        max_retries=0,
        name=function.__name__,  # else the title of its process would be that of `_in_worker`
        runtime_env={"env_vars": dict(environment)} if environment else None,
    )
    calls = _Tasks(task, function, arguments, resources, max_failures)
    return attempts(calls, arguments, backoff_s=backoff_s, at_once=at_once)


def _in_worker(function: Callable[..., Any], resources: Resources, *arguments: Any) -> Any:
    cluster.enter_worker(resources)
    return function(*arguments)


class _Tasks:  # its methods: `attempts.PlacedCalls`
    """PlacedCalls as Ray tasks."""

    def __init__(
        self,
        task: Any,
        function: Callable[..., Any],
        arguments: Mapping[str, tuple[Any, ...]],
        resources: Resources,
        max_failures: int,
    ) -> None:
        self._task, self._function, self._arguments = task, function, arguments
        self._resources, self._max_failures = resources, max_failures

    def start(self, category: str) -> Ref:
        ref: Ref = self._task.remote(self._function, self._resources, *self._arguments[category])
        return ref

    def wait(self, running: Sequence[Ref], timeout_s: float) -> Sequence[Ref]:
        return ray.wait(list(running), num_returns=1, timeout=timeout_s)[0]

    def end(self, handle: Ref, category: str, number: int) -> Attempt:
        try:
            return Attempt(category, number, result=ray.get(handle))
        except RayTaskError as error:
            cause, most = error.cause, self._max_failures
            attempt = failed(category, number, cause, str(error), max_failures=most)
            if isinstance(cause, RayError):  # what the call itself waited for was lost
                short = isinstance(cause, OutOfMemoryError)
                attempt = replace(attempt, last=number > most, out_of_memory=short)
            return attempt
        except RayError as error:
            return Attempt(
                category,
                number,
                error=one_line(f"its worker died: {error}"),
                traceback=str(error),
                last=number > self._max_failures,
                out_of_memory=isinstance(error, OutOfMemoryError),
            )

    def cancel(self, running: Sequence[Ref]) -> None:
        # The calls of a run that was stopped would go on until this process ends.
        for one in running:
            ray.cancel(one, force=True)
