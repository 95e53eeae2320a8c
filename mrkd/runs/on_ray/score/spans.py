"""Spans of shards in quarantine on Ray: each is scored in a process that reports its steps."""

from __future__ import annotations

import uuid
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

from mrkd.config import PoolConfig
from mrkd.errors import MrkdError
from mrkd.nights.shards import Shard
from mrkd.runs.on_ray import cluster, status_actor
from mrkd.runs.on_ray.score.steps import Pass
from mrkd.runs.shards.quarantine import SpanCrash
from mrkd.runs.shards.shard_work import Work, score_part
from mrkd.runs.shards.timings import Meter

if TYPE_CHECKING:
    from mrkd.model.inference import Scorer


def score_span(part: Shard, settings: Pass) -> Work | SpanCrash:
    """The rows of a part of a shard or its failure, or the crash of its process."""
    name = uuid.uuid4().hex
    # On GPUs Ray ends the process after each call; elsewhere the next one finds its models.
    scorer = settings.scorer
    task = ray.remote(_score_part).options(
        num_cpus=scorer.cpus, num_gpus=scorer.gpus, max_retries=0
    )
    try:
        work: Work | None = ray.get(task.remote(part, name, settings))
    except RayTaskError as error:
        reason = f"{type(error.cause).__name__}: {error.cause}"
        return SpanCrash(*_last_step(name, settings), reason, bug=error)
    except (WorkerCrashedError, OutOfMemoryError) as error:
        low_memory = isinstance(error, OutOfMemoryError)
        return SpanCrash(*_last_step(name, settings), str(error), low_memory=low_memory)
    except RayError as error:  # its node was lost, or an object
        return SpanCrash("machine", None, f"{type(error).__name__}: {error}")
    if work is None:
        return SpanCrash(*_last_step(name, settings), "Ray had started it again after a crash")
    return work


def _last_step(name: str, settings: Pass) -> tuple[str, int | None]:
    """The step that a task reported last, and the number of the image that it decoded."""
    row = status_actor.ask(settings.status.report_of.remote(name), otherwise={"step": "score"})
    return row.get("step", "start"), row.get("number")


def _score_part(part: Shard, name: str, settings: Pass) -> Work | None:
    """The rows of a part of a shard, or its error; None where Ray has started the task again.

    The task reports each step to the status actor beforehand, under its name.
    """
    if not status_actor.ask(settings.status.report.remote(name, {}), otherwise=True):
        return None
    cluster.enter_worker(settings.scorer)
    config, meter = settings.config, Meter()

    def report(step: str, number: int | None) -> None:
        row = {"step": step, "number": number}
        status_actor.ask(settings.status.report.remote(name, row), otherwise=None)

    try:
        work = score_part(
            part,
            meter,
            config,
            lambda: _scorer(config.workspace, config.pool),
            report,
            threads=settings.threads,
            last=settings.last,
        )
    except MrkdError as error:
        work = Work(part, failure=error)
    return replace(work, took=meter.took())


@lru_cache(maxsize=1)
def _scorer(workspace: str, pool: PoolConfig) -> Scorer:
    from mrkd.model.inference import Scorer

    return Scorer(workspace, pool)
