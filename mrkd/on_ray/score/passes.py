"""One revision of a night on Ray: passes over its shards until all are committed.

    todo -> read and decode (tasks) -> score (actors) -> commit (tasks) -> its counts

A shard is one row, and so one block, from end to end. An error that a user can mend ends its shard,
not the pipeline. What was not committed is tried again by the next pass; `pool.max_shard_attempts`
passes in a row that commit nothing end the run. A shard that processes die of leaves the pipeline
and is scored by `isolate`, which finds the image.
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
from mrkd.on_ray import cluster, status_actor
from mrkd.on_ray.cluster import READER_CPUS, Node, Pool
from mrkd.on_ray.score import object_rows, steps
from mrkd.on_ray.score.crash_log import shards_with_deaths
from mrkd.on_ray.score.deadline import Deadline, deadline_of
from mrkd.on_ray.score.progress import NightBoard, NightProgress
from mrkd.on_ray.score.quarantine import Isolation
from mrkd.on_ray.score.resize_pool import Regrouping, pool_in_place_of
from mrkd.on_ray.score.steps import Work
from mrkd.on_ray.score.timings import Timings
from mrkd.storage.lease import Lease

log = logging.getLogger(__name__)

_ONE_ROW: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
_RETRIES = steps.MAX_DEATHS
"""Times that Ray repeats a step whose process died; without a bound, for ever."""
_RESTARTS = 20
"""Times that Ray starts one scorer again: it may die of several shards."""
_SUSPECTS = 16
"""Shards that are isolated after a death of which the board knows nothing."""
_MAX_THREADS = 32
_MIN_AHEAD = 64 * 2**20
"""Bytes of the object store that a pass may fill at least."""


@dataclass
class Done:
    """What one start has done.

    Args:
        images: rows committed.
        seconds: of all passes.
        passes: over the shards.
        took: of all workers.
    """

    images: int = 0
    seconds: float = 0.0
    passes: int = 0
    took: Timings = field(default_factory=Timings)

    @property
    def images_per_s(self) -> float:
        """While passes were under way."""
        return self.images / self.seconds if self.seconds else 0.0


class Committer:
    """Commits the shards of a night's revisions.

    Args:
        night: that they belong to.
        config: of the run.
        pool: of the scorers.
        found: nodes of the cluster.
        lease: checked after each shard.

    Attributes:
        done: so far.
    """

    def __init__(
        self, night: Night, config: ScoreConfig, pool: Pool, found: Sequence[Node], lease: Lease
    ) -> None:
        self._night, self._config, self._lease = night, config, lease
        self._group(pool, found)
        self._board = status_actor.start(NightBoard)
        self._regrouping = Regrouping(pool, self._board)
        self._counted: set[str] = set()
        self.done = Done()

    def _group(self, pool: Pool, found: Sequence[Node]) -> None:
        """Says who takes part from the next pass on."""
        self._pool = pool
        self._readers = readers(found, self._config.pool.gets_per_node)
        free = sum(node.cpus for node in found) - pool.size * pool.ask.cpus
        # Each reader has a shard in hand; each scorer one, and one that waits for it.
        self._in_flight = max(1, math.floor(free / READER_CPUS)) + 2 * pool.size

    def commit_all(self, shards: Sequence[Shard]) -> None:
        """Commits every shard of one revision that is left, or raises why one could not be."""
        began, idle = time.monotonic(), 0
        most = self._config.pool.max_shard_attempts
        num_images = sum(len(shard.rows) for shard in shards)
        try:
            with self._progress(shards[0].revision, num_images) as progress:
                while shards:
                    failure = self._pass(shards, progress, last=idle + 1 >= most)
                    if failure and not isinstance(failure, StorageError | _ProcessDied):
                        raise failure
                    left = self._night.todo(shards[0].revision)
                    self._count_untold(shards, left, progress)
                    idle = idle + 1 if len(left) == len(shards) else 0
                    if left and idle >= most:
                        raise failure or NightError(f"{len(left)} shards came to nothing")
                    if left:
                        log.warning("again shards=%d idle=%d reason=%s", len(left), idle, failure)
                        time.sleep(min(60, 2**idle))
                    shards = left
        finally:
            self.done.seconds += time.monotonic() - began

    def _progress(self, revision: int, num_images: int) -> NightProgress:
        every_s, watches = None, [lambda *_: self._regrouping.look()]
        if at := deadline_of(self._night, self._config, revision):
            deadline = Deadline(self._night, self._config, at, self._board.drop_maps.remote)
            every_s = deadline.every_s
            watches.append(deadline.look)
        return NightProgress(self._night.run, num_images, every_s, watches)

    def _regroup(self) -> None:
        """Before a pass: who takes part in it, by the nodes that there are now."""
        found = cluster.nodes()
        if (pool := pool_in_place_of(self._pool, found, self._config.pool)) != self._pool:
            self._group(pool, found)
        self._regrouping = Regrouping(self._pool, self._board)

    def _pass(
        self, shards: Sequence[Shard], progress: NightProgress, *, last: bool
    ) -> MrkdError | None:
        """One pass; of the failures it met, one that the next would not mend, if any."""
        self.done.passes += 1
        self._regroup()
        failures: list[MrkdError] = []
        known = shards_with_deaths(self._night)
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
            elif work.deaths:
                apart.append(work)

        try:
            for work in self._together(list(left.values()), last=last):
                take(work)
        except RayError as error:
            if self._regrouping.done:
                return None
            reason = " ".join(str(error).split())[:300]
            failures.append(
                _ProcessDied(
                    f"a process of the pipeline died, or failed ({reason}): start the run again; "
                    "what is committed stands"
                )
            )
            log.warning("pass_ended left=%d reason=%s", len(left), reason)
            apart += map(Work, self._suspects(list(left.values())))
        for work in self._apart(apart, last=last):
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

    def _count_untold(
        self, shards: Sequence[Shard], left: Sequence[Shard], progress: NightProgress
    ) -> None:
        """Counts the shards of a pass that were committed and, as it broke off, never came back."""
        uncounted = {shard.id for shard in shards} - {shard.id for shard in left} - self._counted
        for shard in shards:
            if shard.id in uncounted:
                self._count(shard, self._night.counts(shard), progress)

    def _together(self, shards: Sequence[Shard], *, last: bool) -> Iterator[Work]:
        """The shards through the pipeline, in any order; those that kill come back as they were."""
        if not shards:
            return
        status_actor.ask(self._board.clear.remote(), otherwise=None)
        try:
            for row in self._pipeline(shards, last=last).iter_batches(**_ONE_ROW):
                yield object_rows.unpack(row)
        finally:
            self._board.dismiss.remote()

    def _apart(self, works: Sequence[Work], *, last: bool) -> Iterator[Work]:
        """The shards by spans, as many at once as there are scorers, in order."""
        isolate = Isolation(
            self._night, self._config, self._pool.ask, self._board, self._readers.threads, last
        )
        with ThreadPoolExecutor(self._pool.size) as threads:
            try:
                yield from threads.map(isolate, works)
            finally:
                threads.shutdown(cancel_futures=True)

    def _suspects(self, shards: Sequence[Shard]) -> Sequence[Shard]:
        """Of the shards that did not come back, those that the death was most likely of."""
        in_hand: dict[str, int] = status_actor.ask(self._board.in_hand.remote(), otherwise={})
        most = max((in_hand.get(shard.id, 0) for shard in shards), default=0)
        if not most:
            return shards[:_SUSPECTS]
        return [shard for shard in shards if in_hand.get(shard.id) == most]

    def _pipeline(self, shards: Sequence[Shard], *, last: bool) -> Dataset:
        """The way of each shard; nothing runs before it is iterated."""
        context = DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        # Unbounded, readers fill a third of the machine's memory with what scorers come to later.
        ahead = max(_MIN_AHEAD, self._in_flight * most_pixels(shards, self._config.rows))
        limits = ExecutionResources.for_limits(object_store_memory=ahead)
        context.execution_options.resource_limits = limits
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        # It warns that its bars are off.
        logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
        config, ask, board = self._config, self._pool.ask, self._board
        threads, at_once = self._readers.threads, self._readers.at_once
        read = partial(steps.read, config=config, threads=threads, last=last, board=board)
        bound = TaskPoolStrategy(min(at_once, len(shards))) if at_once else None
        with warnings.catch_warnings():
            # Ray 2.60 deprecates `max_...` here and has no other way to bound the retries yet.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            return (
                ray.data.from_arrow([object_rows.pack(Work(shard)) for shard in shards])
                .map_batches(
                    read, compute=bound, num_cpus=READER_CPUS, max_retries=_RETRIES, **_ONE_ROW
                )
                .map_batches(
                    steps.Score,
                    fn_constructor_kwargs={"config": config, "ask": ask, "board": board},
                    compute=ActorPoolStrategy(size=min(self._pool.size, len(shards))),
                    num_cpus=ask.cpus,  # 0 beside a GPU: unsaid, it would be 1
                    num_gpus=ask.gpus,
                    max_restarts=_RESTARTS,
                    max_task_retries=_RETRIES,
                    **_ONE_ROW,
                )
                .map_batches(
                    partial(steps.commit, config=config, board=board),
                    num_cpus=READER_CPUS,
                    max_retries=_RETRIES,
                    **_ONE_ROW,
                )
            )


class _ProcessDied(NightError):
    """Shards are left because a process died of one of them, or with its machine."""


@dataclass(frozen=True)
class Readers:
    """How images are read, so that the requests of a node stay within its bound.

    Args:
        threads: of each reader, with one request each.
        at_once: readers of the whole cluster; None: as many as find room.
    """

    threads: int
    at_once: int | None = None


def readers(found: Sequence[Node], gets_per_node: int) -> Readers:
    """The readers of a cluster of these nodes; Ray Data spreads them evenly."""
    room = [max(1, math.floor(node.cpus / READER_CPUS)) for node in found if node.cpus] or [1]
    threads = max(1, min(_MAX_THREADS, gets_per_node // max(room)))
    bounded = max(room) > gets_per_node
    return Readers(threads, sum(min(n, gets_per_node) for n in room) if bounded else None)
