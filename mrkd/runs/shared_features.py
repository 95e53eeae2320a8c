"""Shared features: a folder on each machine where trainings share their teachers' features."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mrkd.runs.executor import Executor


def folder_of(uri: str, *below: str) -> str:
    """Path of the folder, on each machine, of the trainings of a run.

    Args:
        uri: the URI that the run writes to.
        below: names of folders in it. They are joined as a path: `storage.join` would make a URI.
    """
    name = hashlib.sha256(uri.encode()).hexdigest()[:12]
    return str(Path(tempfile.gettempdir(), f"mrkd-features-{name}", *below))


@contextmanager
def shared_folder(executor: Executor, uri: str) -> Iterator[str]:
    """The folder, on each machine, for a run that writes to a URI; removed at the block's end."""
    folder = folder_of(uri)
    try:
        yield folder
    finally:
        executor.forget(folder)
