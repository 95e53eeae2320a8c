"""A stretch of a test as a user for whom permissions count, even where root runs the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_NOBODY = 65_534


@contextmanager
def unprivileged() -> Iterator[None]:
    """Gives up root's rights within the block; paths on the way must be open to all."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
