"""Steps of a shard of a night in the workers: read, score, commit; a shard is one row.

An error that a user can mend ends its shard alone and travels on to the driver. So does a shard on
which processes have crashed: it is not started again.
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
from mrkd.runs.on_ray import cluster, status_actor
from mrkd.runs.on_ray.cluster import Resources
from mrkd.runs.on_ray.score import object_rows
from mrkd.runs.score.read_images import Row, decode, decoder_of, read_images
from mrkd.runs.score.timings import Meter, Timings
from mrkd.storage import Fetched, schema

if TYPE_CHECKING:
    from mrkd.model.inference import Scorer

MAX_STEP_CRASHES = 2
"""Crashes of processes in one step of a shard; a single one may well be its machine's fault."""

NO_MAPS, SCORERS = "no maps", "scorers"
"""Names of reports to the status actor: no map is stored from now on; the scorers' handles."""


@dataclass(frozen=True)
class Work:
    """A shard of the plan on its way, and how far it has come.

    Args:
        images: images, read and decoded, in the shard's order.
        table: rows (`schema.SCORES`).
        failure: error that ended it before it was committed.
        crashes: number of processes that crashed on it, after which it was not tried again.
        counts: number of its committed rows, by `ok`, `nok` and each error kind.
        took: timings of its steps so far.
    """

    shard: Shard
    images: Sequence[Decoded] = ()
    table: pa.Table | None = None
    failure: MrkdError | None = None
    crashes: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    took: Timings = field(default_factory=Timings)


@dataclass(frozen=True)
class Pass:
    """Settings of one pass over shards, with a scorer's resources and the status actor's handle.

    Args:
        threads: requests that a process has under way at one time.
        last: whether an unreachable image is an error row like any other.
    """

    config: ScoreConfig
    scorer: Resources
    status: Any
    threads: int
    last: bool


def read(row: pa.Table, *, settings: Pass) -> pa.Table:
    """Adds the images of a shard."""
    cluster.log_to_driver()
    config = settings.config

    def images(work: Work, meter: Meter) -> Work:
        shard, pin = work.shard, work.shard.pin
        if pin is None:
            return work
        decoder = decoder_of(config.workspace, shard.category, pin.version, config.archive)
        at_once = min(settings.threads, ahead_of(decoder))

        def use(row: Row, got: Fetched) -> Decoded:
            with inner.time("decode"):
                return decode(decoder, row, got)

        with meter.time_threads() as inner:
            found = read_images(
                shard.rows.to_pylist(),
                config.archive,
                use,
                threads=at_once,
                last=settings.last,
                meter=inner,
            )
        return replace(work, images=found)

    return _step(row, "read", settings.status, images)


class Score:
    """Holds a scorer, and with it the models in use, for the life of its process."""

    def __init__(self, settings: Pass) -> None:
        # Not above: it loads torch, which readers do without.
        from mrkd.model.inference import Scorer

        cluster.enter_worker(settings.scorer)
        config = settings.config
        self._scorer, self._rows = Scorer(config.workspace, config.pool), config.rows
        self._may_drop = config.deadline.degraded == "scores_only" and config.rows.map != "none"
        self._status = settings.status
        context = ray.get_runtime_context()
        self._status.report.remote(SCORERS, {context.get_actor_id(): context.current_actor})

    def __call__(self, row: pa.Table) -> pa.Table:
        """Replaces the images by the table of their rows."""
        return _step(row, "score", self._status, self._score)

    def _score(self, work: Work, meter: Meter) -> Work:
        drop = self._may_drop and work.shard.pin is not None
        drop = drop and bool(status_actor.ask(self._status.report_of.remote(NO_MAPS), otherwise={}))
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


def commit(row: pa.Table, *, settings: Pass) -> pa.Table:
    """Stores the table, and replaces it by the counts of its rows."""
    cluster.log_to_driver()
    config = settings.config

    def store(work: Work, meter: Meter) -> Work:
        with meter.time("commit"):
            done = Night(config.workspace, config.run).commit(work.shard, work.table)
        return replace(work, table=None, counts=done.counts)

    return _step(row, "commit", settings.status, store)


def _step(row: pa.Table, name: str, status: Any, do: Callable[[Work, Meter], Work]) -> pa.Table:
    """One step of one shard, unless an earlier step ended it."""
    work: Work = object_rows.unpack(row)
    if work.failure is not None or work.crashes:
        return row
    # Without an answer it is done as if for the first time: Ray bounds its retries as well.
    crashes = status_actor.ask(status.begin.remote(work.shard.id, name), otherwise=1) - 1
    if crashes >= MAX_STEP_CRASHES:
        return object_rows.pack(Work(work.shard, crashes=crashes, took=work.took))
    meter = Meter()
    try:
        done = do(work, meter)
    except MrkdError as error:
        done = Work(work.shard, failure=error)
    packed = object_rows.pack(replace(done, took=work.took + meter.took()))
    status.end.remote(work.shard.id, name)
    return packed
