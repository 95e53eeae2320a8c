"""Shared features: a folder on each machine where trainings share their teachers' features."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_FORGET_S = 60.0


def folder_of(uri: str, *below: str) -> str:
    """Path of the folder, on each machine, of the trainings of a run.

    Args:
        uri: the URI that the run writes to.
        below: names of folders in it. They are joined as a path: `storage.join` would make a URI.
    """
    name = hashlib.sha256(uri.encode()).hexdigest()[:12]
    return str(Path(tempfile.gettempdir(), f"mrkd-features-{name}", *below))


@contextmanager
def shared_folder(uri: str) -> Iterator[str]:
    """The folder, on each machine, for a run that writes to a URI; removed at the block's end."""
    folder = folder_of(uri)
    try:
        yield folder
    finally:
        forget(folder)


def forget(folder: str, *, wait_s: float = _FORGET_S) -> None:
    """Removes a folder on every machine; with `wait_s` 0 the removal goes on by itself."""
    remove: Any = ray.remote(shutil.rmtree)
    done = [
        remove.options(
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote(folder, ignore_errors=True)
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
    if wait_s:
        ray.wait(done, num_returns=len(done), timeout=wait_s)
