"""Named random streams from one seed: one more draw from one of them shifts no other.

A stream is named by what it is for and by what it belongs to (step, level, sample), never by a
rank or a worker, so that it is the same under data parallelism, accumulation and resume.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, *names: object) -> np.random.Generator:
    """The generator of that name, the same on every machine and in every process."""
    digest = _digest(seed, names)
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def torch_seed(seed: int, *names: object) -> int:
    """A seed in [0, 2^63) for `torch.Generator.manual_seed`, named like a stream."""
    return int.from_bytes(_digest(seed, names)[:8], "little") >> 1


def _digest(seed: int, names: tuple[object, ...]) -> bytes:
    # repr keeps ("a", "b") apart from ("a, b",); sha256, not hash(), whose salt is per process.
    return hashlib.sha256(repr((seed, *map(str, names))).encode()).digest()
