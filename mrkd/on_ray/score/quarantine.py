"""A shard that processes die of: the images that kill are found, and the rest is scored.

Spans of the shard are read, decoded and scored in one process each, which says where it is. One
that dies while it decodes names its image, which from then on stands alone; one that dies elsewhere
has its span halved. An image that so many processes died of becomes an `internal` row. Each death
is stored (`deaths`), so that another start goes on from there.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

from mrkd.config import PoolConfig, ScoreConfig
from mrkd.errors import MrkdError, NightError, StorageError
from mrkd.nights.night import Night
from mrkd.nights.shards import Shard
from mrkd.on_ray import cluster, status_actor
from mrkd.on_ray.cluster import Resources
from mrkd.on_ray.score import steps
from mrkd.on_ray.score.crash_log import (
    DEATHS,
    Death,
    folder_of,
    spans_left,
    store_death,
    stored_deaths,
)
from mrkd.on_ray.score.read_images import Row, decode, decoder_of, read_images
from mrkd.on_ray.score.steps import Work
from mrkd.on_ray.score.timings import Meter, Timings
from mrkd.storage import Fetched

if TYPE_CHECKING:
    from mrkd.model.inference import Scorer

log = logging.getLogger(__name__)

_STARTS = 5
"""Deaths, one after another, before any image was in hand or with a machine: no image's fault."""
_UNNAMED = 64
"""Deaths of one shard that named no image. One deadly image costs about 11 of them."""
_BUGS = 16
"""Images on which the code may fail; where there are more, the code is at fault, not they."""


@dataclass
class Isolation:
    """Scores shards by spans and commits them, one after another.

    Args:
        night: that they belong to.
        config: of the run.
        ask: what a scorer takes.
        board: a `night_progress.Board`.
        threads: requests that a process has under way at one time.
        last: whether an image that cannot be reached is an error like any other.
    """

    night: Night
    config: ScoreConfig
    ask: Resources
    board: Any
    threads: int
    last: bool
    _bugs: set[str] = field(default_factory=set, init=False)

    def __call__(self, work: Work) -> Work:
        """The shard with the counts of its committed rows, or with what ended it.

        Args:
            work: the shard, and how many processes of the pipeline died of it just now.

        Raises:
            NightError: processes die whatever image they have in hand.
            RayTaskError: the code fails outside of an image.
        """
        try:
            return self._isolate(work)
        except StorageError as error:  # to be tried again, as in the pipeline
            return Work(work.shard, failure=error)

    def _isolate(self, work: Work) -> Work:
        shard, took = work.shard, Timings()
        deaths = stored_deaths(self.night, shard)
        for _ in range(work.deaths):
            death = Death(0, len(shard.rows) - 1, None, "pipeline", "taken in hand once more")
            self._store(shard, death, deaths)
        log.warning("isolate shard=%s images=%d deaths=%d", shard.id, len(shard.rows), len(deaths))
        uris = shard.rows["image_uri"].to_pylist()
        tables: dict[int, pa.Table] = {}
        starts = 0
        while spans := [s for s in spans_left(uris, deaths)[0] if s.start not in tables]:
            end = self._attempt(shard, spans[0])
            if not isinstance(end, Death):
                if end.failure is not None:
                    return replace(end, took=took + end.took)
                tables[spans[0].start], took = end.table, took + end.took
                starts = 0
                continue
            self._store(shard, end, deaths)
            starts = starts + 1 if end.at in ("start", "machine") else 0
            unnamed = sum(death.image_uri is None for death in deaths)
            if starts >= _STARTS or unnamed >= _UNNAMED:
                raise NightError(
                    f"processes die of shard {shard.id} ({shard.category}) whatever image they "
                    f"have in hand, the last at {end.at}: {end.reason}: look at the machines and "
                    f"the model; to try it anew delete {folder_of(self.night, shard)}"
                )
        rows = [*tables.items(), *self._lost_rows(shard, spans_left(uris, deaths)[1])]
        table = pa.concat_tables([table for _, table in sorted(rows, key=lambda row: row[0])])
        done = self.night.commit(shard, table.unify_dictionaries().combine_chunks())
        return Work(shard, counts=done.counts, took=took)

    def _attempt(self, shard: Shard, span: range) -> Work | Death:
        """The rows of a span or its failure, or how its process died."""
        name = uuid.uuid4().hex
        # On GPUs Ray ends the process after each call; elsewhere the next one finds its models.
        task = ray.remote(_score_span).options(
            num_cpus=self.ask.cpus, num_gpus=self.ask.gpus, max_retries=0
        )
        part = replace(shard, rows=shard.rows.slice(span.start, len(span)))
        values = (part, name, self.config, self.ask, self.board, self.threads, self.last)
        low_memory = False
        try:
            work: Work | None = ray.get(task.remote(*values))
            if work is not None:
                return replace(work, shard=shard)
        except RayTaskError as error:
            at, number = self._place(name)
            if number is not None:
                self._bugs.add(part.rows["image_uri"][number].as_py())
            if number is None or len(self._bugs) > _BUGS:
                raise
            reason = f"{type(error.cause).__name__}: {error.cause}"
        except (WorkerCrashedError, OutOfMemoryError) as error:
            at, number = self._place(name)
            reason, low_memory = str(error), isinstance(error, OutOfMemoryError)
        except RayError as error:  # its node, or what it had made
            at, number, reason = "machine", None, f"{type(error).__name__}: {error}"
        else:
            at, number = self._place(name)
            reason = "Ray had started it again after it died"
        uri = None if number is None else part.rows["image_uri"][number].as_py()
        reason = " ".join(reason.split())[:300]
        death = Death(span.start, span.stop - 1, uri, at, reason, low_memory)
        log.warning("died shard=%s %s", shard.id, asdict(death))
        return death

    def _place(self, name: str) -> tuple[str, int | None]:
        place: tuple[str, int | None] = status_actor.ask(
            self.board.place.remote(name), otherwise=("score", None)
        )
        return place

    def _lost_rows(self, shard: Shard, lost: Mapping[int, Death]) -> list[tuple[int, pa.Table]]:
        """One row for each image that was given up; its text is the same in every run."""
        rows = []
        for number, death in lost.items():
            message = (
                f"it ended {DEATHS} processes that had it in hand (at {death.at}): it breaks what "
                "works on it, or asks for more memory than there is: write it again or leave it out"
            )
            one = replace(shard, rows=shard.rows.slice(number, 1))
            rows.append((number, one.error_table("internal", message)))
        return rows

    def _store(self, shard: Shard, death: Death, deaths: list[Death]) -> None:
        """Adds one to those of a shard."""
        deaths.append(death)
        store_death(self.night, shard, death, len(deaths))


def _score_span(
    part: Shard,
    name: str,
    config: ScoreConfig,
    ask: Resources,
    board: Any,
    threads: int,
    last: bool,
) -> Work | None:
    """The rows of a part of a shard, or what ended it; None where this process is a repetition.

    Args:
        part: the shard with these rows alone.
        name: of this task.
        config: of the run.
        ask: what this task takes.
        board: is told what this process does next, before it does it.
        threads: as `Isolation`.
        last: as `Isolation`.
    """
    if not status_actor.ask(board.start.remote(name), otherwise=True):
        return None
    cluster.enter_worker(ask)
    meter = Meter()
    try:
        return replace(_rows(part, name, config, board, threads, last, meter), took=meter.took())
    except MrkdError as error:
        return Work(part, failure=error, took=meter.took())


def _rows(
    part: Shard,
    name: str,
    config: ScoreConfig,
    board: Any,
    threads: int,
    last: bool,
    meter: Meter,
) -> Work:
    def tell(place: str, number: int | None = None) -> None:
        status_actor.ask(board.put.remote(name, place, number), otherwise=None)

    scorer, pin = _scorer(config.workspace, config.pool), part.pin
    if pin is None:
        return Work(part, table=part.without_model())
    # A model that cannot be held is not the fault of an image: loaded before the first one.
    steps.score_shard(scorer, replace(part, rows=part.rows.slice(0, 0)), (), config.rows)
    decoder = decoder_of(part, config.workspace, config.archive)
    rows: list[Row] = part.rows.to_pylist()
    tell("read")
    with meter.time("read"):
        found = read_images(rows, config.archive, _keep, threads=threads, last=last, meter=Meter())
    images = []
    with meter.time("decode"):
        for number, (row, got) in enumerate(zip(rows, found, strict=True)):
            if isinstance(got, Fetched):
                tell("decode", number)
                got = decode(decoder, row, got)
            images.append(got)
    tell("score")
    with meter.time("score"):
        return Work(part, table=steps.score_shard(scorer, part, images, config.rows))


def _keep(row: Row, got: Fetched) -> Fetched:
    return got


@lru_cache(maxsize=1)
def _scorer(workspace: str, pool: PoolConfig) -> Scorer:
    from mrkd.model.inference import Scorer

    return Scorer(workspace, pool)
