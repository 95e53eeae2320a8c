"""One Ray task for each category, the failures of one kept from the others."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from mrkd.errors import MrkdError
from mrkd.on_ray.session import Ask

log = logging.getLogger(__name__)

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


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
    ask: Ask,
    *,
    max_failures: int,
) -> Iterator[Attempt]:
    """Calls a function in a worker for each category, as many at once as the cluster holds.

    Args:
        function: of the arguments; what it raises ends its own category alone.
        arguments: by category, in the order in which they are started.
        ask: what each call takes.
        max_failures: times that a category is started again after its worker died. What a function
            raises, it would raise again.

    Yields:
        Every attempt as it ends.
    """
    # Retried here, not by Ray, so that every attempt is seen and counted.
    task = ray.remote(function).options(num_cpus=ask.cpus, num_gpus=ask.gpus, max_retries=0)
    running = {task.remote(*given): (category, 1) for category, given in arguments.items()}
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        category, number = running.pop(done)
        attempt = _attempt(done, category, number, max_failures)
        if attempt.error:
            log.error("failed category=%s attempt=%d error=%s", category, number, attempt.error)
        if not attempt.last:
            running[task.remote(*arguments[category])] = category, number + 1
        yield attempt


def _attempt(done: ray.ObjectRef[Any], category: str, number: int, max_failures: int) -> Attempt:
    try:
        return Attempt(category, number, result=ray.get(done))
    except RayTaskError as error:
        cause = error.cause
        text = str(cause) if isinstance(cause, MrkdError) else f"{type(cause).__name__}: {cause}"
        return Attempt(category, number, error=_line(text), traceback=_COLOUR.sub("", str(error)))
    except RayError as error:
        text = f"its worker died: {error}"
        last = number > max_failures
        return Attempt(category, number, error=_line(text), traceback=str(error), last=last)


def _line(text: str) -> str:
    return " ".join(text.split())
