"""Passes over the shards of a night's revision on Ray, until all are committed.

    todo -> read and decode (tasks) -> score (actors) -> commit (tasks) -> its counts

A shard is one row, and so one block, from end to end. An error that a user can mend ends its shard,
not the pipeline. Shards that are not committed are tried again by the next pass;
`pool.max_shard_attempts` passes in a row that commit nothing end the run. A shard that crashes
processes leaves the pipeline and is scored in `quarantine`, which finds the image.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionResources, TaskPoolStrategy
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from mrkd.config import ScoreConfig
from mrkd.errors import MrkdError, NightError, StorageError
from mrkd.nights.night import Night
from mrkd.nights.shards import Shard, most_pixels
from mrkd.runs.on_ray import cluster, status_actor
from mrkd.runs.on_ray.cluster import READER_CPUS, Node, Pool
from mrkd.runs.on_ray.score import object_rows, steps
from mrkd.runs.on_ray.score.resize_pool import PoolWatch, resized_pool
from mrkd.runs.on_ray.score.steps import Pass, Work
from mrkd.runs.progress import NightProgress
from mrkd.runs.score.crash_log import crashed_shards
from mrkd.runs.score.deadline import Deadline, deadline_of
from mrkd.runs.score.quarantine import Quarantine
from mrkd.runs.score.timings import Timings
from mrkd.storage.lease import Lease

log = logging.getLogger(__name__)

_ONE_ROW: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
_RETRIES = steps.MAX_STEP_CRASHES
"""Times that Ray repeats a step whose process crashed; without a bound, for ever."""
_RESTARTS = 20
"""Times that Ray starts one scorer again: it may crash on several shards."""
_SUSPECTS = 16
"""Shards that are put into quarantine after a crash that the status actor knows nothing of."""
_MAX_THREADS = 32
_MIN_AHEAD = 64 * 2**20
"""Bytes of the object store that any pass may fill."""


@dataclass
class Done:
    """The work of one start: committed rows, seconds and number of passes, workers' timings."""

    images: int = 0
    seconds: float = 0.0
    passes: int = 0
    took: Timings = field(default_factory=Timings)


class Committer:
    """Commits the shards of a night's revisions, and checks the night's lease after each.

    Attributes:
        done: work of this start so far.
    """

    def __init__(
        self, night: Night, config: ScoreConfig, pool: Pool, found: Sequence[Node], lease: Lease
    ) -> None:
        self._night, self._config, self._lease = night, config, lease
        self._status = status_actor.start()
        self._resize(pool, found)
        self._counted: set[str] = set()
        self.done = Done()

    def _resize(self, pool: Pool, found: Sequence[Node]) -> None:
        """Sets the scorers and readers of the next passes."""
        self._pool, self._watch = pool, PoolWatch(pool, self._status)
        self._readers = readers(found, self._config.pool.gets_per_node)
        free = sum(node.cpus for node in found) - pool.size * pool.each.cpus
        # Each reader has a shard in hand; each scorer one, and another in its queue.
        self._in_flight = max(1, math.floor(free / READER_CPUS)) + 2 * pool.size

    def commit_all(self, shards: Sequence[Shard]) -> None:
        """Commits the shards left of one revision, or raises the error of one that failed."""
        began, idle = time.monotonic(), 0
        most = self._config.pool.max_shard_attempts
        num_images = sum(len(shard.rows) for shard in shards)
        try:
            with self._progress(shards[0].revision, num_images).published() as progress:
                while shards:
                    failure = self._pass(shards, progress, last=idle + 1 >= most)
                    if failure and not isinstance(failure, StorageError | _ProcessDied):
                        raise failure
                    left = self._night.todo(shards[0].revision)
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
        at = deadline_of(self._night, self._config, revision)
        drop_maps = partial(self._status.report.remote, steps.NO_MAPS, {"late": True})
        progress = NightProgress(self._night.run, num_images)
        progress.checks.append(lambda: self._watch.look())
        if at:
            deadline = Deadline(self._night, self._config, at, drop_maps)
            progress.every_s = deadline.every_s
            progress.checks.append(lambda: deadline.look(progress.left, progress.images_per_s))
        return progress

    def _pass(
        self, shards: Sequence[Shard], progress: NightProgress, *, last: bool
    ) -> MrkdError | None:
        """One pass; its failure, if any, preferably one that the next pass would not mend."""
        self.done.passes += 1
        found = cluster.nodes()
        pool = resized_pool(self._pool, found, self._config.pool)
        self._resize(pool, found)
        settings = Pass(self._config, pool.each, self._status, self._readers.threads, last)
        failures: list[MrkdError] = []
        known = crashed_shards(self._night)
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
            for work in self._together(list(left.values()), settings):
                take(work)
        except RayError as error:
            if self._watch.has_shrunk:
                return None
            reason = " ".join(str(error).split())[:300]
            failures.append(
                _ProcessDied(
                    f"a process of the pipeline died, or failed ({reason}): start the run again; "
                    "committed rows are kept"
                )
            )
            log.warning("pass_ended left=%d reason=%s", len(left), reason)
            apart += map(Work, self._suspects(list(left.values())))
        for work in self._apart(apart, settings):
            take(work)
        for mendable in (StorageError | _ProcessDied, StorageError):
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
                self._count(shard, self._night.counts(shard), progress)

    def _together(self, shards: Sequence[Shard], settings: Pass) -> Iterator[Work]:
        """The shards from the pipeline, in any order; those that crash processes unchanged."""
        if not shards:
            return
        status_actor.ask(self._status.clear_steps.remote(), otherwise=None)
        try:
            for row in self._pipeline(shards, settings).iter_batches(**_ONE_ROW):
                yield object_rows.unpack(row)
        finally:
            # An actor lives as long as anything holds its handle.
            self._status.forget.remote(steps.SCORERS)

    def _apart(self, works: Sequence[Work], settings: Pass) -> Iterator[Work]:
        """The shards from the quarantine, as many at once as there are scorers, in order."""
        quarantine = Quarantine(self._night, settings)
        with ThreadPoolExecutor(self._pool.size) as threads:
            try:
                yield from threads.map(quarantine, works)
            finally:
                threads.shutdown(cancel_futures=True)

    def _suspects(self, shards: Sequence[Shard]) -> Sequence[Shard]:
        """The shards, of those that did not come back, that most likely caused the crash."""
        in_hand: dict[str, int] = status_actor.ask(self._status.in_hand.remote(), otherwise={})
        most = max((in_hand.get(shard.id, 0) for shard in shards), default=0)
        if not most:
            return shards[:_SUSPECTS]
        return [shard for shard in shards if in_hand.get(shard.id) == most]

    def _pipeline(self, shards: Sequence[Shard], settings: Pass) -> Dataset:
        """The steps of each shard; nothing runs before it is iterated."""
        context = DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        # Unbounded, readers fill a third of the machine's memory with shards for later.
        ahead = max(_MIN_AHEAD, self._in_flight * most_pixels(shards, self._config.rows))
        limits = ExecutionResources.for_limits(object_store_memory=ahead)
        context.execution_options.resource_limits = limits
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        # It warns that its bars are off.
        logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
        at_once, scorer = self._readers.at_once, settings.scorer
        bound = TaskPoolStrategy(min(at_once, len(shards))) if at_once else None
        with warnings.catch_warnings():
            # Ray 2.60 deprecates `max_...` here and has no other way to bound the retries yet.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            return (
                ray.data.from_arrow([object_rows.pack(Work(shard)) for shard in shards])
                .map_batches(
                    partial(steps.read, settings=settings),
                    compute=bound,
                    num_cpus=READER_CPUS,
                    max_retries=_RETRIES,
                    **_ONE_ROW,
                )
                .map_batches(
                    steps.Score,
                    fn_constructor_kwargs={"settings": settings},
                    compute=ActorPoolStrategy(size=min(self._pool.size, len(shards))),
                    num_cpus=scorer.cpus,  # 0 beside a GPU, where the default is 1
                    num_gpus=scorer.gpus,
                    max_restarts=_RESTARTS,
                    max_task_retries=_RETRIES,
                    **_ONE_ROW,
                )
                .map_batches(
                    partial(steps.commit, settings=settings),
                    num_cpus=READER_CPUS,
                    max_retries=_RETRIES,
                    **_ONE_ROW,
                )
            )


class _ProcessDied(NightError):
    """Shards are left because a process crashed on one of them, or was lost with its machine."""


@dataclass(frozen=True)
class Readers:
    """Number of readers and their threads, so that a node's requests stay within its bound."""

    threads: int
    """Threads of each reader, with one request each."""
    at_once: int | None = None
    """Readers of the whole cluster; None: as many as find room."""


def readers(found: Sequence[Node], gets_per_node: int) -> Readers:
    """The readers of a cluster with these nodes; Ray Data spreads them evenly."""
    room = [max(1, math.floor(node.cpus / READER_CPUS)) for node in found if node.cpus] or [1]
    threads = max(1, min(_MAX_THREADS, gets_per_node // max(room)))
    bounded = max(room) > gets_per_node
    return Readers(threads, sum(min(n, gets_per_node) for n in room) if bounded else None)
