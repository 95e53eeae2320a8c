"""One Ray task for each category; the failure of one does not end the others."""

from __future__ import annotations

import heapq
import itertools
import logging
import re
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from mrkd.errors import MrkdError, StorageError
from mrkd.runs.on_ray.cluster import Resources

log = logging.getLogger(__name__)

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_MAX_BACKOFF_S, _WAIT_S = 300.0, 30.0


@dataclass(frozen=True)
class Attempt:
    """The end of one start of a category; `error`, one line, is empty where it did not fail."""

    category: str
    number: int
    """Number of this start, from 1."""
    result: Any = None
    error: str = ""
    traceback: str = ""
    last: bool = True
    """Whether the category is not started again."""
    cause: BaseException | None = None


def run_each(
    function: Callable[..., Any],
    arguments: Mapping[str, tuple[Any, ...]],
    resources: Resources,
    *,
    max_failures: int,
    backoff_s: float = 0.0,
    at_once: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Generator[Attempt, None, None]:
    """Calls a function in a worker for each category, as many at once as the cluster holds.

    Args:
        function: function that is called with a category's arguments; an exception ends its own
            category alone.
        arguments: arguments by category, in the order in which the calls are started.
        resources: resources of each call.
        max_failures: number of further starts of a category whose worker or storage died, or whose
            device failed. Any other exception would be raised again, and ends the category.
        backoff_s: seconds before it is started again; doubled with each further start.
        at_once: calls under way at one time; None: all, and Ray queues those that do not fit.
        environment: environment variables of the calls and of the processes that they start.

    Yields:
        Every attempt as it ends. A caller that leaves before the last ends the calls under way.
    """
    # Retried here, not by Ray, so that every attempt is seen and counted.
    task = ray.remote(function).options(
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
        max_retries=0,
        runtime_env={"env_vars": dict(environment)} if environment else None,
    )
    order = itertools.count()
    # (when it may start, its turn, category, number): those that are not started yet.
    waiting = [(0.0, next(order), category, 1) for category in arguments]
    running: dict[ray.ObjectRef[Any], tuple[str, int]] = {}
    try:
        while waiting or running:
            now = time.monotonic()
            while waiting and waiting[0][0] <= now and (at_once is None or len(running) < at_once):
                _, _, category, number = heapq.heappop(waiting)
                running[task.remote(*arguments[category])] = category, number
            for one in _wait(running, waiting[0][0] - now if waiting else _WAIT_S):
                category, number = running.pop(one)
                attempt = _attempt(one, category, number, max_failures)
                if attempt.error:
                    log.error(
                        "failed category=%s attempt=%d error=%s", category, number, attempt.error
                    )
                if not attempt.last:
                    delay = min(backoff_s * 2 ** (number - 1), _MAX_BACKOFF_S)
                    entry = (time.monotonic() + delay, next(order), category, number + 1)
                    heapq.heappush(waiting, entry)
                yield attempt
    finally:
        # The calls of a run that was stopped would go on until this process ends.
        for one in running:
            ray.cancel(one, force=True)


def _wait(running: Mapping[ray.ObjectRef[Any], Any], timeout_s: float) -> Any:
    """The calls that ended, as soon as one has; none after that time."""
    if running:
        timeout_s = min(max(timeout_s, 0.05), _WAIT_S)
        return ray.wait(list(running), num_returns=1, timeout=timeout_s)[0]
    time.sleep(max(0.0, timeout_s))
    return []


def _attempt(done: ray.ObjectRef[Any], category: str, number: int, max_failures: int) -> Attempt:
    try:
        return Attempt(category, number, result=ray.get(done))
    except RayTaskError as error:
        cause = error.cause
        text = str(cause) if isinstance(cause, MrkdError) else f"{type(cause).__name__}: {cause}"
        traceback = _COLOUR.sub("", str(error))
        last = number > max_failures or not _may_pass(cause)
        return Attempt(category, number, None, one_line(text), traceback, last, cause)
    except RayError as error:
        text, last = f"its worker died: {error}", number > max_failures
        return Attempt(category, number, None, one_line(text), str(error), last, error)


def _may_pass(cause: BaseException) -> bool:
    """Whether the same call may succeed: storage was unreachable, a device or a process failed.

    torch raises RuntimeError for a device's failure, as for some bugs; one more try costs little.
    """
    if isinstance(cause, MrkdError):
        return isinstance(cause, StorageError) and cause.kind == "unreachable"
    return isinstance(cause, RuntimeError | OSError | RayError)


def one_line(text: object) -> str:
    """The text without line breaks."""
    return " ".join(str(text).split())
