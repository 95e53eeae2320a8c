"""What becomes of one shard of a night in the workers: read, score, commit; one row each.

An error that a user can mend ends its shard alone; it travels on and is told to the driver. So does
a shard that processes have died of: it is not taken in hand again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray

from mrkd.config import RowsConfig, ScoreConfig
from mrkd.data.preprocess import Decoded, ahead_of
from mrkd.errors import MrkdError
from mrkd.nights.night import Night
from mrkd.nights.shards import Shard
from mrkd.on_ray import cluster, status_actor
from mrkd.on_ray.cluster import Resources
from mrkd.on_ray.score import object_rows
from mrkd.on_ray.score.read_images import Row, decode, decoder_of, read_images
from mrkd.on_ray.score.timings import Meter, Timings
from mrkd.storage import Fetched, schema

if TYPE_CHECKING:
    from mrkd.model.inference import Scorer

MAX_DEATHS = 2
"""Of processes that have one step of a shard in hand; one may well be its machine's fault."""


@dataclass(frozen=True)
class Work:
    """What travels: a shard and how far it has come.

    Args:
        shard: of the plan.
        images: read and decoded, in the shard's order.
        table: its rows (`schema.SCORES`).
        failure: what ended it before it was committed.
        deaths: of processes that had it in hand, after which it was not tried once more.
        counts: of the rows that stand in storage now, by `ok`, `nok` and each error kind.
        took: what was spent on it so far.
    """

    shard: Shard
    images: Sequence[Decoded] = ()
    table: pa.Table | None = None
    failure: MrkdError | None = None
    deaths: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    took: Timings = field(default_factory=Timings)


def read(row: pa.Table, *, config: ScoreConfig, threads: int, last: bool, board: Any) -> pa.Table:
    """Adds the images of a shard; on the last try one that cannot be reached is an error row."""
    cluster.log_to_driver()

    def images(work: Work, meter: Meter) -> Work:
        if work.shard.pin is None:
            return work
        decoder = decoder_of(work.shard, config.workspace, config.archive)
        at_once = min(threads, ahead_of(decoder))

        def use(row: Row, got: Fetched) -> Decoded:
            with inner.time("decode"):
                return decode(decoder, row, got)

        with meter.time_threads() as inner:
            rows = work.shard.rows.to_pylist()
            found = read_images(rows, config.archive, use, threads=at_once, last=last, meter=inner)
        return replace(work, images=found)

    return _step(row, "read", board, images)


class Score:
    """Holds a scorer, and with it the models in use, for the life of its process."""

    def __init__(self, config: ScoreConfig, ask: Resources, board: Any) -> None:
        from mrkd.model.inference import (
            Scorer,  # not above: it loads torch, which readers do without
        )

        cluster.enter_worker(ask)
        self._scorer, self._rows = Scorer(config.workspace, config.pool), config.rows
        self._may_drop = config.deadline.degraded == "scores_only" and config.rows.map != "none"
        self._board = board
        board.join.remote(ray.get_runtime_context().current_actor)

    def __call__(self, row: pa.Table) -> pa.Table:
        """Puts the table of rows in the images' place."""
        return _step(row, "score", self._board, self._score)

    def _score(self, work: Work, meter: Meter) -> Work:
        drop = self._may_drop and work.shard.pin is not None
        drop = drop and status_actor.ask(self._board.maps_dropped.remote(), otherwise=False)
        rows = replace(self._rows, map="none") if drop else self._rows
        with meter.time("score"):
            table = score_shard(self._scorer, work.shard, work.images, rows)
        if drop:
            facts = {**(table.schema.metadata or {}), b"degraded": b"scores_only"}
            table = table.replace_schema_metadata(facts)
        return replace(work, images=(), table=table)


def score_shard(
    scorer: Scorer, shard: Shard, images: Sequence[Decoded], rows: RowsConfig
) -> pa.Table:
    """The rows (`schema.SCORES`) of a shard whose images were read."""
    model = shard.pin
    if model is None:
        return shard.without_model()
    found = scorer.score(
        images,
        category=shard.category,
        version=model.version,
        calibration=model.calibration,
        rows=rows,
    )
    found = [row | {"revision": shard.revision} for row in found]
    return schema.score_table(found, category=shard.category, metadata={})


def commit(row: pa.Table, *, config: ScoreConfig, board: Any) -> pa.Table:
    """Stores the table; what comes out is the shard and the counts of its rows."""
    cluster.log_to_driver()

    def store(work: Work, meter: Meter) -> Work:
        with meter.time("commit"):
            done = Night(config.workspace, config.run).commit(work.shard, work.table)
        return replace(work, table=None, counts=done.counts)

    return _step(row, "commit", board, store)


def _step(row: pa.Table, name: str, board: Any, do: Callable[[Work, Meter], Work]) -> pa.Table:
    """One step of one shard, unless an earlier one ended it."""
    work: Work = object_rows.unpack(row)
    if work.failure is not None or work.deaths:
        return row
    # Without a board it is done as if for the first time: Ray bounds its retries as well.
    deaths = status_actor.ask(board.begin.remote(work.shard.id, name), otherwise=1) - 1
    if deaths >= MAX_DEATHS:
        return object_rows.pack(Work(work.shard, deaths=deaths, took=work.took))
    meter = Meter()
    try:
        done = do(work, meter)
    except MrkdError as error:
        done = Work(work.shard, failure=error)
    packed = object_rows.pack(replace(done, took=work.took + meter.took()))
    board.end.remote(work.shard.id, name)
    return packed
