"""Quarantine of a shard that crashes processes: finds its deadly images and scores the rest.

Spans of the shard are read, decoded and scored in one process each, which reports its step. A crash
during decoding names its image, which is a span of its own from then on; a crash elsewhere halves
the span. An image that has crashed `MAX_CRASHES` processes becomes an `internal` row. Each crash is
stored (`crash_log`), so that another start goes on from there.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import pyarrow as pa
import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

from mrkd.config import PoolConfig
from mrkd.errors import MrkdError, NightError, StorageError
from mrkd.nights.night import Night
from mrkd.nights.shards import Shard
from mrkd.runs.on_ray import cluster, status_actor
from mrkd.runs.on_ray.score import steps
from mrkd.runs.on_ray.score.steps import Pass, Work
from mrkd.runs.score.crash_log import (
    MAX_CRASHES,
    Crash,
    add_crash,
    folder_of,
    spans_left,
    stored_crashes,
)
from mrkd.runs.score.read_images import Row, decode, decoder_of, read_images
from mrkd.runs.score.timings import Meter, Timings
from mrkd.storage import Fetched

if TYPE_CHECKING:
    from mrkd.model.inference import Scorer

log = logging.getLogger(__name__)

_STARTS = 5
"""Consecutive crashes before the first image, or with a machine: not the fault of an image."""
_UNNAMED = 64
"""Crashes of one shard that named no image. One deadly image costs about 11 of them."""
_BUGS = 16
"""Images on which the code may fail; with more of them, the code is at fault."""


@dataclass
class Quarantine:
    """Scores shards of a night by spans and commits them, one after another."""

    night: Night
    settings: Pass
    _bugs: set[str] = field(default_factory=set, init=False)

    def __call__(self, work: Work) -> Work:
        """The shard with the counts of its committed rows, or with the error that ended it.

        Raises:
            NightError: processes crash on any image.
            RayTaskError: the code fails outside of an image.
        """
        try:
            return self._score(work)
        except StorageError as error:  # to be tried again, as in the pipeline
            return Work(work.shard, failure=error)

    def _score(self, work: Work) -> Work:
        shard, took = work.shard, Timings()
        crashes = stored_crashes(self.night, shard)
        for _ in range(work.crashes):
            crash = Crash(0, len(shard.rows) - 1, None, "pipeline", "taken in hand once more")
            add_crash(self.night, shard, crash, crashes)
        log.warning("isolate shard=%s images=%d deaths=%d", shard.id, len(shard.rows), len(crashes))
        uris = shard.rows["image_uri"].to_pylist()
        tables: dict[int, pa.Table] = {}
        starts = 0
        while spans := [s for s in spans_left(uris, crashes)[0] if s.start not in tables]:
            end = self._attempt(shard, spans[0])
            if not isinstance(end, Crash):
                if end.failure is not None:
                    return replace(end, took=took + end.took)
                tables[spans[0].start], took = end.table, took + end.took
                starts = 0
                continue
            add_crash(self.night, shard, end, crashes)
            starts = starts + 1 if end.at in ("start", "machine") else 0
            unnamed = sum(crash.image_uri is None for crash in crashes)
            if starts >= _STARTS or unnamed >= _UNNAMED:
                raise NightError(
                    f"processes crash on any image of shard {shard.id} ({shard.category}), the "
                    f"last at {end.at}: {end.reason}: check the machines and the model; to try "
                    f"again, delete {folder_of(self.night, shard)}"
                )
        for number, crash in spans_left(uris, crashes)[1].items():  # the same text in every run
            message = (
                f"it ended {MAX_CRASHES} processes that had it in hand (at {crash.at}): it breaks "
                "what works on it, or asks for more memory than there is: write it again or leave "
                "it out"
            )
            lost = replace(shard, rows=shard.rows.slice(number, 1))
            tables[number] = lost.error_table("internal", message)
        table = pa.concat_tables([tables[number] for number in sorted(tables)])
        done = self.night.commit(shard, table.unify_dictionaries().combine_chunks())
        return Work(shard, counts=done.counts, took=took)

    def _attempt(self, shard: Shard, span: range) -> Work | Crash:
        """The rows of a span or its failure, or the crash of its process."""
        name = uuid.uuid4().hex
        # On GPUs Ray ends the process after each call; elsewhere the next one finds its models.
        scorer = self.settings.scorer
        task = ray.remote(_score_span).options(
            num_cpus=scorer.cpus, num_gpus=scorer.gpus, max_retries=0
        )
        part = replace(shard, rows=shard.rows.slice(span.start, len(span)))
        low_memory = False
        try:
            work: Work | None = ray.get(task.remote(part, name, self.settings))
            if work is not None:
                return replace(work, shard=shard)
        except RayTaskError as error:
            at, number = self._last_step(name)
            if number is not None:
                self._bugs.add(part.rows["image_uri"][number].as_py())
            if number is None or len(self._bugs) > _BUGS:
                raise
            reason = f"{type(error.cause).__name__}: {error.cause}"
        except (WorkerCrashedError, OutOfMemoryError) as error:
            at, number = self._last_step(name)
            reason, low_memory = str(error), isinstance(error, OutOfMemoryError)
        except RayError as error:  # its node was lost, or an object
            at, number, reason = "machine", None, f"{type(error).__name__}: {error}"
        else:
            at, number = self._last_step(name)
            reason = "Ray had started it again after a crash"
        uri = None if number is None else part.rows["image_uri"][number].as_py()
        reason = " ".join(reason.split())[:300]
        crash = Crash(span.start, span.stop - 1, uri, at, reason, low_memory)
        log.warning("died shard=%s %s", shard.id, asdict(crash))
        return crash

    def _last_step(self, name: str) -> tuple[str, int | None]:
        """The step that a task reported last, and the number of the image that it decoded."""
        status = self.settings.status
        row = status_actor.ask(status.report_of.remote(name), otherwise={"step": "score"})
        return row.get("step", "start"), row.get("number")


def _score_span(part: Shard, name: str, settings: Pass) -> Work | None:
    """The rows of a part of a shard, or its error; None where Ray has started the task again.

    The task reports each step to the status actor beforehand, under its name.
    """
    if not status_actor.ask(settings.status.report.remote(name, {}), otherwise=True):
        return None
    cluster.enter_worker(settings.scorer)
    meter = Meter()
    try:
        return replace(_rows(part, name, settings, meter), took=meter.took())
    except MrkdError as error:
        return Work(part, failure=error, took=meter.took())


def _rows(part: Shard, name: str, settings: Pass, meter: Meter) -> Work:
    config = settings.config

    def report(step: str, number: int | None = None) -> None:
        row = {"step": step, "number": number}
        status_actor.ask(settings.status.report.remote(name, row), otherwise=None)

    scorer, pin = _scorer(config.workspace, config.pool), part.pin
    if pin is None:
        return Work(part, table=part.without_model())
    # A model that does not fit into memory is not the fault of an image: loaded before the first.
    steps.score_shard(scorer, replace(part, rows=part.rows.slice(0, 0)), (), config.rows)
    decoder = decoder_of(config.workspace, part.category, pin.version, config.archive)
    rows: list[Row] = part.rows.to_pylist()
    report("read")
    with meter.time("read"):
        found = read_images(
            rows,
            config.archive,
            lambda row, got: got,
            threads=settings.threads,
            last=settings.last,
            meter=Meter(),
        )
    images = []
    with meter.time("decode"):
        for number, (row, got) in enumerate(zip(rows, found, strict=True)):
            if isinstance(got, Fetched):
                report("decode", number)
                got = decode(decoder, row, got)
            images.append(got)
    report("score")
    with meter.time("score"):
        return Work(part, table=steps.score_shard(scorer, part, images, config.rows))


@lru_cache(maxsize=1)
def _scorer(workspace: str, pool: PoolConfig) -> Scorer:
    from mrkd.model.inference import Scorer

    return Scorer(workspace, pool)
