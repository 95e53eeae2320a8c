"""Choice of a run's executor: the one that its config names, or the one that is done sooner."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Sequence

from mrkd.config import ExecutorName
from mrkd.errors import ConfigError, MrkdError
from mrkd.runs.executor import Executor, ExecutorChoice
from mrkd.runs.resources import Node

log = logging.getLogger(__name__)

RAY_START_S = 15.0
"""Seconds until the first worker of a local Ray computes: 12 to 20 on 2 cores."""


def executor_of(name: ExecutorName) -> ExecutorChoice:
    """The executor of a run.

    Args:
        name: value of the config's key `executor`. `auto` is Ray where a cluster is given by
            `RAY_ADDRESS`, or runs in this process; else it is decided by the run's length.

    Raises:
        ConfigError: it is `ray`, which is not installed.
    """
    # Before a search space imports Ray: this gives a local one its token.
    import mrkd.runs.on_ray  # noqa: F401

    has_ray = _has_ray()
    if name == "in_process":
        return in_process("the config asks for it")
    if name == "ray" and not has_ray:
        raise ConfigError("executor is ray, and Ray is not installed: set it to in_process")
    if name == "ray":
        return on_ray("the config asks for it")
    if not has_ray:
        return in_process("Ray is not installed")
    if os.environ.get("RAY_ADDRESS"):
        return on_ray("RAY_ADDRESS names a cluster")
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return on_ray("a Ray runs in this process")
    return Auto()


def in_process(reason: str) -> Executor:
    """The executor in this process, which loads torch."""
    from mrkd.runs.in_process import InProcess

    return _chosen(InProcess(), reason)


def on_ray(reason: str) -> Executor:
    """The executor on Ray, which is imported now."""
    from mrkd.runs.on_ray.executor import OnRay

    return _chosen(OnRay(), reason)


def for_one_machine(name: ExecutorName) -> Executor:
    """The executor of runs that fit on one machine: `auto` is Ray only where there is one."""
    choice = executor_of(name)
    if isinstance(choice, Auto):
        return in_process("RAY_ADDRESS is not set: nothing has to wait for Ray")
    return choice.for_work(lambda: 0.0)


class Auto:
    """`ExecutorChoice` by the length of the run."""

    @property
    def nodes(self) -> Sequence[Node]:
        """This machine."""
        from mrkd.runs.in_process import InProcess

        return InProcess().nodes

    def for_work(self, seconds: Callable[[], float]) -> Executor:
        """In this process if the run is shorter than Ray's start, else on a local Ray."""
        import torch

        if torch.cuda.device_count() > 1:
            return on_ray("this machine has several GPUs")
        try:
            forecast_s = seconds()
        except (MrkdError, LookupError, TypeError, ValueError) as error:
            return on_ray(f"the length of the run is not known: {error}")
        text = f"forecast {forecast_s:.0f} s, Ray's start takes {RAY_START_S:.0f} s"
        if forecast_s < RAY_START_S:
            return in_process(text)
        return on_ray(text)


def _has_ray() -> bool:
    try:
        return importlib.util.find_spec("ray") is not None
    except ImportError:  # an importer refuses it
        return False


def _chosen(executor: Executor, reason: str) -> Executor:
    log.info("executor name=%s reason=%s", executor.name, reason)
    return executor
