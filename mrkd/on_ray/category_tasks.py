"""One Ray task for each category, the failures of one kept from the others."""

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
from mrkd.on_ray.cluster import Resources

log = logging.getLogger(__name__)

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_MAX_BACKOFF_S = 300.0


@dataclass(frozen=True)
class Attempt:
    """How one start of a category ended.

    Args:
        category: its name.
        number: which start of it this was, from 1.
        result: what the function returned; None where it failed.
        error: one line; empty where it did not fail.
        traceback: as the worker had it; empty where it did not fail.
        last: it is not started again.
    """

    category: str
    number: int
    result: Any = None
    error: str = ""
    traceback: str = ""
    last: bool = True


def run_each(
    function: Callable[..., Any],
    arguments: Mapping[str, tuple[Any, ...]],
    ask: Resources,
    *,
    max_failures: int,
    backoff_s: float = 0.0,
    at_once: int | None = None,
    environment: Mapping[str, str] | None = None,
    tick: Callable[[], None] | None = None,
    tick_s: float = 30.0,
) -> Generator[Attempt, None, None]:
    """Calls a function in a worker for each category, as many at once as the cluster holds.

    Args:
        function: of the arguments; what it raises ends its own category alone.
        arguments: by category, in the order in which they are started.
        ask: what each call takes.
        max_failures: times that a category is started again after its worker or its storage died,
            or its device failed. What else a function raises, it would raise again.
        backoff_s: before it is started again; doubled with each further time.
        at_once: calls under way at one time; None: all, Ray lets wait what does not fit.
        environment: variables of the calls and of what they start.
        tick: called about every `tick_s` seconds.
        tick_s: see `tick`.

    Yields:
        Every attempt as it ends. Whoever leaves before the last ends the calls under way.
    """
    # Retried here, not by Ray, so that every attempt is seen and counted.
    task = ray.remote(function).options(
        num_cpus=ask.cpus,
        num_gpus=ask.gpus,
        max_retries=0,
        runtime_env={"env_vars": dict(environment)} if environment else None,
    )
    order = itertools.count()
    # (when it may start, its place, category, number): those that wait for their turn.
    waiting = [(0.0, next(order), category, 1) for category in arguments]
    running: dict[ray.ObjectRef[Any], tuple[str, int]] = {}
    ticked = time.monotonic()
    try:
        while waiting or running:
            now = time.monotonic()
            while waiting and waiting[0][0] <= now and (at_once is None or len(running) < at_once):
                _, _, category, number = heapq.heappop(waiting)
                running[task.remote(*arguments[category])] = category, number
            done, _ = _wait(
                running, min(tick_s, max(0.0, waiting[0][0] - now)) if waiting else tick_s
            )
            for one in done:
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
            if tick and time.monotonic() - ticked >= tick_s:
                ticked = time.monotonic()
                tick()
    finally:
        # Of a run that was stopped: its calls would go on until this process ends.
        for one in running:
            ray.cancel(one, force=True)


def _wait(running: Mapping[ray.ObjectRef[Any], Any], timeout_s: float) -> Any:
    """Those that ended, as soon as one has."""
    if running:
        return ray.wait(list(running), num_returns=1, timeout=max(timeout_s, 0.05))
    time.sleep(timeout_s)
    return [], []


def _attempt(done: ray.ObjectRef[Any], category: str, number: int, max_failures: int) -> Attempt:
    try:
        return Attempt(category, number, result=ray.get(done))
    except RayTaskError as error:
        cause = error.cause
        text = str(cause) if isinstance(cause, MrkdError) else f"{type(cause).__name__}: {cause}"
        traceback = _COLOUR.sub("", str(error))
        last = number > max_failures or not _may_pass(cause)
        return Attempt(category, number, error=_line(text), traceback=traceback, last=last)
    except RayError as error:
        text = f"its worker died: {error}"
        last = number > max_failures
        return Attempt(category, number, error=_line(text), traceback=str(error), last=last)


def _may_pass(cause: BaseException) -> bool:
    """Whether the same call may end otherwise: a place out of reach, a device or process that died.

    torch raises RuntimeError for a device's failure, as for some bugs; one more try costs little.
    """
    if isinstance(cause, MrkdError):
        return isinstance(cause, StorageError) and cause.kind == "unreachable"
    return isinstance(cause, RuntimeError | OSError | RayError)


def _line(text: str) -> str:
    return " ".join(text.split())
