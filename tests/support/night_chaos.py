"""A night whose processes are killed at random moments, started again until it is done."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path

from mrkd.config import ScoreConfig
from tests.support.night_runs import CommittedRows, command, environment
from tests.support.under_fire import ChaosError, UnderFire

KINDS = ("scorer", "reader", "raylet", "driver")
_TITLES = {
    "scorer": ("ray::MapWorker(MapBatches(Score))",),
    "reader": ("ray::MapBatches(read)",),
    "raylet": ("raylet/raylet\0",),
}
_MOVE_S = 180.0
"""By then a start has committed a shard, or ended."""
_DONE = (0, 3)
_MAX_STARTS_UNHARMED = 5


class NightUnderFire(UnderFire):
    """One night, its command and its victims.

    Args:
        config: of the night.
        folder: for its TOML and its log.
        rng: of the moments and the victims.

    Attributes:
        killed: processes by kind.
    """

    def __init__(self, config: ScoreConfig, folder: Path, rng: random.Random) -> None:
        words, log = command(config, folder), folder / f"{config.run}.log"
        super().__init__(words, _TITLES, log, rng, environment(config))
        self._rows = CommittedRows(config)
        self.killed: Counter[str] = Counter()

    def run(self, kinds: Sequence[str]) -> int:
        """Kills one process of each kind in turn, as long as the night lasts; its last exit code.

        Between two kills at least one shard is committed. A kind of which nothing runs just then
        waits for the next shard, so that a night does not end with fewer kills than it was to have.
        """
        left = deque(kinds)
        try:
            self.start()
            while left and self._wait_for_a_shard():
                time.sleep(self.rng.uniform(0, 1))
                if self._kill_one(left[0]):
                    left.popleft()
                else:
                    left.rotate(-1)
            return self._finish()
        finally:
            self.end()

    def _wait_for_a_shard(self) -> bool:
        """False where the night was done before another one was committed."""
        before, until = self._rows.files(), time.monotonic() + _MOVE_S
        while not self._rows.files() - before:
            if self._over():
                return False
            if time.monotonic() > until:
                raise ChaosError(f"no shard in {_MOVE_S:g} s: {self.tail()}")
            time.sleep(0.05)
        return True

    def _kill_one(self, kind: str) -> bool:
        """False where nothing of the kind was there to be killed."""
        victims = self.victims(kind)
        if not victims:
            return False
        try:
            os.kill(self.rng.choice(victims), signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.killed[kind] += 1
        return True

    def _over(self) -> bool:
        """Whether the night is done; a start that ended before that is followed by another."""
        code = self.driver.poll()
        if code is None:
            return False
        if code in _DONE:
            return True
        self.end()
        self.start()
        return False

    def _finish(self) -> int:
        starts, until = self.starts, time.monotonic() + 4 * _MOVE_S
        while not self._over():
            if self.starts - starts > _MAX_STARTS_UNHARMED or time.monotonic() > until:
                raise ChaosError(f"not done, start {self.starts}: {self.tail()}")
            time.sleep(0.2)
        return self.driver.returncode


def run_under_fire(config: ScoreConfig, folder: Path, seed: int, kills: int) -> NightUnderFire:
    """Runs a night to its end, with up to so many kills; scorers and readers more often.

    Raises:
        ChaosError: it hangs, or fails though nothing is killed any more.
    """
    rng = random.Random(seed)
    # Each kind once, so that a short run has them all.
    kinds = [*KINDS, *rng.choices(KINDS, weights=(3, 3, 1, 1), k=max(0, kills - len(KINDS)))]
    rng.shuffle(kinds)
    fire = NightUnderFire(config, folder, rng)
    fire.run(kinds)
    return fire
