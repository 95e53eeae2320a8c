"""Calls on GPUs that are only Ray's word: each writes down which it was given, and when."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Seen(NamedTuple):
    """One call: its process, the devices that it saw, and its time."""

    pid: int
    devices: str
    began: float
    ended: float


def work(folder: Path, number: int) -> str:
    """A call that dies the first time if its number says so, or fails, or takes a moment."""
    began, devices = time.monotonic(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    mark = folder / f"{number}.begun"
    is_first = not mark.exists()
    mark.touch()
    if is_first and number % 31 == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02 * (number % 4))
    line = json.dumps(Seen(os.getpid(), devices, began, time.monotonic()))
    (folder / f"{number}-{time.monotonic_ns()}.json").write_text(line)
    if is_first and number % 29 == 0:
        raise RuntimeError("the device failed")
    return devices


def seen_in(folder: Path) -> list[Seen]:
    """The calls that were written down in a folder."""
    return [Seen(*json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]


def devices_by_process(seen: Sequence[Seen]) -> dict[int, set[str]]:
    """The values of CUDA_VISIBLE_DEVICES that each process saw."""
    found: defaultdict[int, set[str]] = defaultdict(set)
    for one in seen:
        found[one.pid].add(one.devices)
    return found


def most_at_once(seen: Sequence[Seen], by: str) -> int:
    """The most calls at one time of one process (`pid`) or of one GPU (`devices`)."""
    events: defaultdict[Any, list[tuple[float, int]]] = defaultdict(list)
    for one in seen:
        events[getattr(one, by)] += [(one.began, 1), (one.ended, -1)]
    most = 0
    for moments in events.values():
        now = 0
        for _, change in sorted(moments):
            now += change
            most = max(most, now)
    return most
