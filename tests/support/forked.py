"""Processes of their own that need not import torch: each is forked off one that has."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
# And what torch's optimisers import when the first of them is made, and pyarrow's first CSV.
_CONTEXT.set_forkserver_preload(
    ["tests.bench.fuzz", "tests.support.trainings", "torch.distributed", "torch._dynamo", "pandas"]
)


def start(
    function: Callable[..., object], *arguments: object, output: Path | None = None
) -> ForkServerProcess:
    """A process that calls a module's function.

    Args:
        function: what it calls; importable, for it is found by its name.
        arguments: what it is called with.
        output: where all goes that the process prints, its last words included.
    """
    process = _CONTEXT.Process(target=_call, args=(output, function, *arguments))
    process.start()
    return process


def _call(output: Path | None, function: Callable[..., object], *arguments: object) -> None:
    if output is not None:
        with output.open("wb") as file:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(file.fileno(), stream.fileno())
    function(*arguments)
