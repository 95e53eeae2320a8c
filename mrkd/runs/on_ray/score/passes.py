"""Passes over the shards of a night on Ray Data.

    todo -> read and decode (tasks) -> score (actors) -> commit (tasks) -> its counts

A shard is one row, and so one block, from end to end.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionResources, TaskPoolStrategy
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning
from ray.util.metrics import Gauge

from mrkd.config import ScoreConfig
from mrkd.nights.night import Night
from mrkd.nights.shards import Shard, most_pixels
from mrkd.runs.on_ray import cluster, private, status_actor
from mrkd.runs.on_ray.score import object_rows, steps
from mrkd.runs.on_ray.score.resize_pool import PoolWatch, resized_pool
from mrkd.runs.on_ray.score.spans import SpanSlots
from mrkd.runs.on_ray.score.steps import Pass
from mrkd.runs.resources import READER_CPUS, Node, Pool
from mrkd.runs.shards.committer import Committer, ProcessDiedError
from mrkd.runs.shards.quarantine import SpanCrash
from mrkd.runs.shards.shard_work import Work
from mrkd.storage.lease import Lease

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


class RayCommitter(Committer):
    """Commits shards by a pipeline of Ray Data, made anew for the nodes of each pass."""

    executor = "ray"

    def __init__(
        self, night: Night, config: ScoreConfig, lease: Lease, pool: Pool, found: Sequence[Node]
    ) -> None:
        super().__init__(night, config, lease, Gauge)
        self._status = status_actor.start()
        self._resize(pool, found)

    def _resize(self, pool: Pool, found: Sequence[Node]) -> None:
        """Sets the scorers and readers of the next passes."""
        self.nodes, self._pool, self._watch = found, pool, PoolWatch(pool, self._status)
        self._readers = readers(found, self.config.pool.gets_per_node)
        free = sum(node.cpus for node in found) - pool.size * pool.each.cpus
        # Each reader has a shard in hand; each scorer one, and another in its queue.
        self._in_flight = max(1, math.floor(free / READER_CPUS)) + 2 * pool.size

    def checks(self) -> list[Callable[[], None]]:
        """The watch over the nodes of the pass."""
        return [lambda: self._watch.look()]

    def drop_maps(self) -> None:
        """Tells the scorers to store no maps from now on."""
        self._status.report.remote(steps.NO_MAPS, {"late": True})

    def begin_pass(self, *, last: bool) -> int:
        """Makes the pool for the nodes that there are now."""
        found = cluster.nodes()
        self._resize(resized_pool(self._pool, found, self.config.pool), found)
        self._settings = Pass(
            self.config, self._pool.each, self._status, self._readers.threads, last
        )
        self._spans = SpanSlots(self._settings)
        return self._pool.size

    def together(self, shards: Sequence[Shard]) -> Iterator[Work]:
        """The shards from the pipeline, without those that were lost with their processes."""
        status_actor.ask(self._status.clear_steps.remote(), otherwise=None)
        num_lost = len(shards)
        asked = wake_readers(len(shards), self.config.pool.reader_labels)
        try:
            for row in self._pipeline(shards, self._settings).iter_batches(**_ONE_ROW):
                num_lost -= 1
                yield object_rows.unpack(row)
        except RayError as error:
            if self._watch.has_shrunk:
                return
            reason = " ".join(str(error).split())[:300]
            raise ProcessDiedError(
                f"a process of the pipeline died, or failed ({reason}): start the run again; "
                "committed rows are kept"
            ) from error
        finally:
            for one in asked:
                ray.cancel(one)
            # An actor lives as long as anything holds its handle.
            self._status.forget.remote(steps.SCORERS)
        if num_lost and not self._watch.has_shrunk:
            raise ProcessDiedError(
                f"{num_lost} shards were lost with their processes (the log has the reasons): "
                "start the run again; committed rows are kept"
            )

    def score_span(self, part: Shard) -> Work | SpanCrash:
        """A part of a shard in a slot."""
        return self._spans.score(part)

    def end_pass(self) -> None:
        """Ends the slots of the quarantine, whose resources the next pass takes."""
        self._spans.close()

    def suspects(self, shards: Sequence[Shard]) -> Sequence[Shard]:
        """The shards whose step was begun most often, by the status actor."""
        in_hand: dict[str, int] = status_actor.ask(self._status.in_hand.remote(), otherwise={})
        most = max((in_hand.get(shard.id, 0) for shard in shards), default=0)
        if not most:
            return shards[:_SUSPECTS]
        return [shard for shard in shards if in_hand.get(shard.id) == most]

    def _pipeline(self, shards: Sequence[Shard], settings: Pass) -> Dataset:
        """The steps of each shard; nothing runs before it is iterated."""
        context = DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        # A shard that is lost with its process is done again; the others go on.
        context.max_errored_blocks = -1
        # Unbounded, readers fill a third of the machine's memory with shards for later.
        ahead = max(_MIN_AHEAD, self._in_flight * most_pixels(shards, self.config.rows))
        limits = ExecutionResources.for_limits(object_store_memory=ahead)
        context.execution_options.resource_limits = limits
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        # It warns that its bars are off.
        logging.getLogger(private.DATA_PROGRESS_LOGGER).setLevel(logging.ERROR)
        at_once, scorer = self._readers.at_once, settings.scorer
        on_readers = _asked(labels=self.config.pool.reader_labels)
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
                    **on_readers,
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
                    **_asked(memory=scorer.memory, labels=scorer.labels),
                    **_ONE_ROW,
                )
                .map_batches(
                    partial(steps.commit, settings=settings),
                    num_cpus=READER_CPUS,
                    max_retries=_RETRIES,
                    **_ONE_ROW,
                )
            )


def _asked(*, memory: float = 0.0, labels: Sequence[str] = ()) -> dict[str, Any]:
    """Arguments of a step that asks for memory or labels of its node."""
    asked = {"memory": memory, "label_selector": cluster.label_selector(labels)}
    return {name: value for name, value in asked.items() if value}


def wake_readers(num_shards: int, labels: Sequence[str]) -> list[Any]:
    """Asks for the sleeping nodes on which so many shards can be read: a task for each node.

    A task runs as soon as its node has come. Ray Data asks for more nodes only while most CPUs of
    the whole cluster are busy, of which those with other labels never are.
    """
    selector, asked = cluster.label_selector(labels) or None, []
    for node in cluster.sleeping_nodes():
        if node.gpus or not node.cpus or num_shards <= 0:
            continue
        num_shards -= math.ceil(node.cpus / READER_CPUS)
        task: Any = ray.remote(_awake)
        options = {"num_cpus": node.cpus, "label_selector": selector, "max_retries": 0}
        asked.append(task.options(**options).remote())
    return asked


def _awake() -> None:
    """Does nothing: its node has come."""


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
