"""Committer: passes over the shards of a night's revision, until all are committed.

Shards that are not committed are tried again by the next pass; `pool.max_shard_attempts` passes in
a row that commit nothing end the run. An error that a user can mend ends its shard, not the pass. A
shard that crashes processes, or on which the code fails, leaves the pass and is scored in
`quarantine`, which finds the image.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ClassVar

from mrkd.config import ScoreConfig
from mrkd.errors import MrkdError, NightError, StorageError
from mrkd.nights.night import Night
from mrkd.nights.shards import Shard
from mrkd.runs.progress import NewGauge, NightProgress
from mrkd.runs.resources import Node
from mrkd.runs.shards.crash_log import crashed_shards
from mrkd.runs.shards.deadline import Deadline, deadline_of
from mrkd.runs.shards.quarantine import Quarantine, SpanCrash
from mrkd.runs.shards.shard_work import Work
from mrkd.runs.shards.timings import Timings
from mrkd.storage.lease import Lease

log = logging.getLogger(__name__)


@dataclass
class Done:
    """The work of one start: committed rows, seconds and number of passes, workers' timings."""

    images: int = 0
    seconds: float = 0.0
    passes: int = 0
    took: Timings = field(default_factory=Timings)


class ProcessDiedError(NightError):
    """Shards are left because a process crashed on one of them, or was lost with its machine."""


class Committer(ABC):
    """Commits the shards of a night's revisions, and checks the night's lease after each.

    Attributes:
        executor: name of its executor.
        nodes: nodes that it works on.
        done: work of this start so far.
    """

    executor: ClassVar[str]
    nodes: Sequence[Node]

    def __init__(self, night: Night, config: ScoreConfig, lease: Lease, gauge: NewGauge) -> None:
        self.night, self.config, self._lease, self._gauge = night, config, lease, gauge
        self._counted: set[str] = set()
        self.done = Done()

    @abstractmethod
    def begin_pass(self, *, last: bool) -> int:
        """Makes ready for a pass; the number of shards that may be in quarantine at one time.

        Args:
            last: whether an unreachable image is an error row like any other.
        """

    @abstractmethod
    def together(self, shards: Sequence[Shard]) -> Iterator[Work]:
        """The shards as they end, in any order; those that crash processes without counts.

        Raises:
            ProcessDiedError: the pass broke off.
        """

    @abstractmethod
    def score_span(self, part: Shard) -> Work | SpanCrash:
        """The rows of a part of a shard in quarantine, or the crash of its process."""

    @abstractmethod
    def suspects(self, shards: Sequence[Shard]) -> Sequence[Shard]:
        """The shards, of those that did not come back, that most likely broke the pass off."""

    @abstractmethod
    def drop_maps(self) -> None:
        """Stores no maps from now on."""

    def end_pass(self) -> None:
        """Gives back what a pass held."""
        return

    def checks(self) -> list[Callable[[], None]]:
        """Checks that are made at intervals while shards are scored."""
        return []

    def commit_all(self, shards: Sequence[Shard]) -> None:
        """Commits the shards left of one revision, or raises the error of one that failed."""
        began, idle = time.monotonic(), 0
        most = self.config.pool.max_shard_attempts
        num_images = sum(len(shard.rows) for shard in shards)
        try:
            with self._progress(shards[0].revision, num_images).published() as progress:
                while shards:
                    failure = self._pass(shards, progress, last=idle + 1 >= most)
                    if failure and not isinstance(failure, StorageError | ProcessDiedError):
                        raise failure
                    left = self.night.todo(shards[0].revision)
                    self._count_unreported(shards, left, progress)
                    idle = idle + 1 if len(left) == len(shards) else 0
                    if left and idle >= most:
                        raise failure or NightError(f"{len(left)} shards could not be committed")
                    if left:
                        log.warning("again shards=%d idle=%d reason=%s", len(left), idle, failure)
                        time.sleep(min(60, 2**idle))
                    shards = left
        finally:
            self.done.seconds += time.monotonic() - began

    def _progress(self, revision: int, num_images: int) -> NightProgress:
        at = deadline_of(self.night, self.config, revision)
        progress = NightProgress(self.night.run, num_images, self._gauge)
        progress.checks += self.checks()
        if at:
            deadline = Deadline(self.night, self.config, at, self.drop_maps)
            progress.every_s = deadline.every_s
            progress.checks.append(lambda: deadline.look(progress.left, progress.images_per_s))
        return progress

    def _pass(
        self, shards: Sequence[Shard], progress: NightProgress, *, last: bool
    ) -> MrkdError | None:
        """One pass; its failure, if any, preferably one that the next pass would not mend."""
        self.done.passes += 1
        apart_at_once = self.begin_pass(last=last)
        failures: list[MrkdError] = []
        known = crashed_shards(self.night)
        apart = [Work(shard) for shard in shards if shard.id in known]
        left = {shard.id: shard for shard in shards if shard.id not in known}

        def take(work: Work) -> None:
            self._lease.check()
            self.done.took += work.took
            if work.counts:
                self._count(work.shard, work.counts, progress)
            left.pop(work.shard.id, None)
            if work.failure is not None:
                failures.append(work.failure)
            elif work.crashes:
                apart.append(work)

        try:
            for work in self.together(list(left.values())) if left else ():
                take(work)
        except ProcessDiedError as error:
            failures.append(error)
            log.warning("pass_ended left=%d reason=%s", len(left), error)
            apart += map(Work, self.suspects(list(left.values())))
        try:
            for work in self._apart(apart, apart_at_once):
                take(work)
        finally:
            self.end_pass()
        for mendable in (StorageError | ProcessDiedError, StorageError):
            for failure in failures:
                if not isinstance(failure, mendable):
                    return failure
        return failures[0] if failures else None

    def _count(self, shard: Shard, counts: Mapping[str, int], progress: NightProgress) -> None:
        """Counts a committed shard."""
        self._counted.add(shard.id)
        self.done.images += sum(counts.values())
        progress.add(counts)

    def _count_unreported(
        self, shards: Sequence[Shard], left: Sequence[Shard], progress: NightProgress
    ) -> None:
        """Counts the committed shards that a pass did not return, as it broke off."""
        uncounted = {shard.id for shard in shards} - {shard.id for shard in left} - self._counted
        for shard in shards:
            if shard.id in uncounted:
                self._count(shard, self.night.counts(shard), progress)

    def _apart(self, works: Sequence[Work], at_once: int) -> Iterator[Work]:
        """The shards from the quarantine, in order."""
        quarantine = Quarantine(self.night, self.score_span)
        with ThreadPoolExecutor(at_once) as threads:
            try:
                yield from threads.map(quarantine, works)
            finally:
                threads.shutdown(cancel_futures=True)
