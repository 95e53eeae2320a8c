"""Spans of shards in quarantine on Ray: each is scored in a slot that reports its steps."""

from __future__ import annotations

import queue
import uuid
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from mrkd.config import PoolConfig
from mrkd.errors import MrkdError
from mrkd.nights.shards import Shard
from mrkd.runs.on_ray import status_actor
from mrkd.runs.on_ray.score.steps import Pass
from mrkd.runs.on_ray.slots import Slot, begun, loss_of, new_slot
from mrkd.runs.shards.quarantine import SpanCrash
from mrkd.runs.shards.shard_work import Work, score_part
from mrkd.runs.shards.timings import Meter

if TYPE_CHECKING:
    from mrkd.model.inference import Scorer


class SpanSlots:
    """Slots for the quarantine of one pass: one for each thread that asks at one time."""

    def __init__(self, settings: Pass) -> None:
        self._settings = settings
        self._idle: queue.SimpleQueue[Slot] = queue.SimpleQueue()

    def score(self, part: Shard) -> Work | SpanCrash:
        """The rows of a part of a shard or its failure, or the crash of its process."""
        name = uuid.uuid4().hex
        slot = self._slot()
        try:
            slot = begun(slot) if not slot.node else slot
            work: Work = ray.get(slot.call(_score_part, part, name, self._settings))
        except RayTaskError as error:
            slot.end()
            reason = f"{type(error.cause).__name__}: {error.cause}"
            return SpanCrash(*self._last_step(name), reason, bug=error)
        except RayError as error:
            slot.end()
            low_memory = isinstance(error, OutOfMemoryError)
            if not low_memory and (lost := loss_of(error, slot.node)):
                return SpanCrash("machine", None, lost)
            # Ray's text has the number of the process: no two crashes would be equal.
            reason = str(error) if low_memory else "its process crashed"
            return SpanCrash(*self._last_step(name), reason, low_memory=low_memory)
        self._idle.put(slot)
        return work

    def close(self) -> None:
        """Ends the slots."""
        while not self._idle.empty():
            self._idle.get().end()

    def _slot(self) -> Slot:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            scorer = self._settings.scorer
            return new_slot(scorer, scorer, {})

    def _last_step(self, name: str) -> tuple[str, int | None]:
        """The step that a call reported last, and the number of the image that it decoded."""
        status = self._settings.status
        row = status_actor.ask(status.report_of.remote(name), otherwise={"step": "score"})
        return row.get("step", "start"), row.get("number")


def _score_part(part: Shard, name: str, settings: Pass) -> Work:
    """The rows of a part of a shard, or its error; it reports each step beforehand by its name."""
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
