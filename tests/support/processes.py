"""The processes of a command, seen from outside: which there are, and what memory they hold."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


def descendants(root: int) -> Iterator[tuple[int, str]]:
    """Process id and title of all processes below one."""
    parents, titles = {}, {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            stat = (folder / "stat").read_text()
            titles[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    for pid, title in titles.items():
        parent = parents[pid]
        while parent not in (0, 1, root):
            parent = parents.get(parent, 0)
        if parent == root:
            yield pid, title


def cpu_seconds(pid: int) -> float:
    """What a process has computed so far, its threads included and its children not."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / _TICK


def proportional(pid: int) -> int:
    """Bytes that a process holds, of what it shares its part.

    Raises:
        OSError: it has ended.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line[:4] == "Pss:")


def memory(root: int) -> tuple[int, int]:
    """Bytes that a process and all below it hold: resident, and with shared pages counted once."""
    resident = shared_once = 0
    for pid in (root, *(pid for pid, _ in descendants(root))):
        try:
            resident += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
            shared_once += proportional(pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return resident, shared_once


@dataclass
class Watch:
    """Looks at a command every so often, in a thread, within a `with` block.

    Args:
        pid: of the command.
        done: how far it has come, in any unit, never falling; 0 before anything is done.
        every_s: between two looks.

    Attributes:
        peak_rss, peak_pss: of all its processes together, bytes.
        seen: seconds of the monotonic clock and `done`, whenever that had risen.
    """

    pid: int
    done: Callable[[], int]
    every_s: float = 0.5
    peak_rss: int = 0
    peak_pss: int = 0
    seen: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    @property
    def rate(self) -> float | None:
        """Per second, between the first look that found something done and the last; None: one."""
        if len(self.seen) < 2:
            return None
        (first_s, first), (last_s, last) = self.seen[0], self.seen[-1]
        return (last - first) / (last_s - first_s)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._left.wait(self.every_s):
            resident, shared_once = memory(self.pid)
            self.peak_rss = max(self.peak_rss, resident)
            self.peak_pss = max(self.peak_pss, shared_once)
            now, done = time.monotonic(), self.done()
            if done > (self.seen[-1][1] if self.seen else 0):
                self.seen.append((now, done))
