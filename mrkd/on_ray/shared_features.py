"""Folders in which trainings of one machine share their teachers' features, and their removal."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
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


def forget(folder: str, *, wait_s: float = _FORGET_S) -> None:
    """Removes it on every machine.

    Args:
        folder: `folder_of`, or one below.
        wait_s: for the end of it; 0: it goes on by itself.
    """
    remove: Any = ray.remote(_remove)
    done = [
        remove.options(
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote(folder)
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
    if wait_s:
        ray.wait(done, num_returns=len(done), timeout=wait_s)


def _remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
