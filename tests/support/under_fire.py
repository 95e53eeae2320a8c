"""A command whose processes are killed while it works, and which is started again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.processes import descendants

TOP = Path(__file__).parents[2]
_GONE_S = 40.0


class ChaosError(AssertionError):
    """The command did not do what it was waited for."""


class UnderFire:
    """A command and its victims.

    Args:
        command: its words.
        titles: how the processes of a kind name themselves in /proc; `driver` is the command.
        log: path that its output goes to.
        rng: of the moments and the victims.
        environment: of the command; None: this process's.

    Attributes:
        starts: of the command.
    """

    def __init__(
        self,
        command: Sequence[str],
        titles: Mapping[str, Sequence[str]],
        log: Path,
        rng: random.Random,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.command, self.titles, self.log, self.rng = command, titles, log, rng
        self.environment = environment
        self.starts = 0
        self.driver: subprocess.Popen[bytes] | None = None

    def tail(self) -> str:
        """The end of what the command said."""
        return self.log.read_text(errors="replace")[-3000:]

    def start(self) -> None:
        """Starts the command, in a session of its own."""
        self.starts += 1
        with self.log.open("ab") as log:
            self.driver = subprocess.Popen(
                self.command,
                cwd=TOP,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self.environment,
            )

    def victims(self, kind: str) -> list[int]:
        """Ids of the processes of a kind that run now."""
        if kind == "driver":
            return [self.driver.pid]
        return [
            pid
            for pid, title in descendants(self.driver.pid)
            if any(name in title for name in self.titles[kind])
        ]

    def end(self) -> None:
        """Ends what is left of a start: the command's processes, and no others."""
        left = [pid for pid, _ in descendants(self.driver.pid)]
        if self.driver.poll() is None:
            self.driver.kill()
        self.driver.wait(_GONE_S)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
