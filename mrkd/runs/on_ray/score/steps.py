"""Steps of a shard of a night in Ray's workers: read, score, commit; a shard is one row.

An error that a user can mend ends its shard alone and travels on to the driver. So does a shard on
which processes have crashed: it is not started again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import ray

from mrkd.config import ScoreConfig
from mrkd.errors import MrkdError
from mrkd.nights.night import Night
from mrkd.runs.on_ray import cluster, status_actor
from mrkd.runs.on_ray.score import object_rows
from mrkd.runs.resources import Resources
from mrkd.runs.shards import shard_work
from mrkd.runs.shards.shard_work import Work, may_drop_maps
from mrkd.runs.shards.timings import Meter

MAX_STEP_CRASHES = 2
"""Crashes of processes in one step of a shard; a single one may well be its machine's fault."""

NO_MAPS, SCORERS = "no maps", "scorers"
"""Names of reports to the status actor: no map is stored from now on; the scorers' handles."""


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

    def images(work: Work, meter: Meter) -> Work:
        config = settings.config
        return shard_work.read(work, meter, config, threads=settings.threads, last=settings.last)

    return _step(row, "read", settings.status, images)


class Score:
    """Holds a scorer, and with it the models in use, for the life of its process."""

    def __init__(self, settings: Pass) -> None:
        # Not above: it loads torch, which readers do without.
        from mrkd.model.inference import Scorer

        config = settings.config
        self._scorer: Scorer | MrkdError
        try:
            cluster.enter_worker(settings.scorer)
            self._scorer = Scorer(config.workspace, config.pool)
        except MrkdError as error:  # of each shard, or Ray would start it again and again
            self._scorer = error
        self._rows = config.rows
        self._may_drop = may_drop_maps(config)
        self._status = settings.status
        context = ray.get_runtime_context()
        self._status.report.remote(SCORERS, {context.get_actor_id(): context.current_actor})

    def __call__(self, row: pa.Table) -> pa.Table:
        """Replaces the images by the table of their rows."""
        return _step(row, "score", self._status, self._score)

    def _score(self, work: Work, meter: Meter) -> Work:
        if isinstance(self._scorer, MrkdError):
            raise self._scorer
        drop = self._may_drop and work.shard.pin is not None
        drop = drop and bool(status_actor.ask(self._status.report_of.remote(NO_MAPS), otherwise={}))
        return shard_work.score(work, meter, self._scorer, self._rows, without_maps=drop)


def commit(row: pa.Table, *, settings: Pass) -> pa.Table:
    """Stores the table, and replaces it by the counts of its rows."""
    cluster.log_to_driver()
    night = Night(settings.config.workspace, settings.config.run)
    return _step(
        row,
        "commit",
        settings.status,
        lambda work, meter: shard_work.commit(work, meter, night),
    )


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
