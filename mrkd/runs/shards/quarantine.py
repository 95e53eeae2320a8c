"""Quarantine of a shard that crashes processes: finds its deadly images and scores the rest.

Spans of the shard are read, decoded and scored one after another by the executor, on Ray in one
process each. A crash during decoding names its image, which is a span of its own from then on; a
crash elsewhere halves the span. An image that has crashed `MAX_CRASHES` times becomes an `internal`
row. Each crash is stored (`crash_log`), so that another start goes on from there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import pyarrow as pa

from mrkd.errors import NightError, StorageError
from mrkd.nights.night import Night
from mrkd.nights.shards import Shard
from mrkd.runs.attempts import LOST_S, one_line
from mrkd.runs.shards.crash_log import (
    MAX_CRASHES,
    Crash,
    add_crash,
    folder_of,
    spans_left,
    stored_crashes,
)
from mrkd.runs.shards.shard_work import Work
from mrkd.runs.shards.timings import Timings

log = logging.getLogger(__name__)

_STARTS = 5
"""Consecutive crashes before the first image: not the fault of an image."""
_UNNAMED = 64
"""Crashes of one shard that named no image. One deadly image costs about 11 of them."""
_BUGS = 16
"""Images on which the code may fail; with more of them, the code is at fault."""


@dataclass(frozen=True)
class SpanCrash:
    """A crash while a span was worked on.

    Args:
        at: start, read, decode or score; machine for one that was lost with its node.
        number: number in the span of the image that was being decoded.
        reason: reason, in the executor's words.
        low_memory: whether the process was ended as its node had no memory left.
        bug: exception of the code, where it was that; no process crashed.
    """

    at: str
    number: int | None
    reason: str
    low_memory: bool = False
    bug: BaseException | None = None


ScoreSpan = Callable[[Shard], Work | SpanCrash]


@dataclass
class Quarantine:
    """Scores shards of a night by spans and commits them, one after another."""

    night: Night
    score_span: ScoreSpan
    _bugs: set[str] = field(default_factory=set, init=False)

    def __call__(self, work: Work) -> Work:
        """The shard with the counts of its committed rows, or with the error that ended it.

        Raises:
            NightError: processes crash on any image.
            Exception: the code fails outside of an image.
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
        starts, lost_at = 0, None
        while spans := [s for s in spans_left(uris, crashes)[0] if s.start not in tables]:
            end = self._attempt(shard, spans[0])
            if not isinstance(end, Crash):
                if end.failure is not None:
                    return replace(end, took=took + end.took)
                tables[spans[0].start], took = end.table, took + end.took
                starts, lost_at = 0, None
                continue
            if end.at == "machine":  # no image is the reason
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > LOST_S:
                    raise NightError(f"shard {shard.id} loses every node that works on it")
                time.sleep(1.0)
                continue
            add_crash(self.night, shard, end, crashes)
            starts = starts + 1 if end.at == "start" else 0
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
        """The rows of a span or its failure, or its crash."""
        part = replace(shard, rows=shard.rows.slice(span.start, len(span)))
        end = self.score_span(part)
        if isinstance(end, Work):
            return replace(end, shard=shard)
        uri = None if end.number is None else part.rows["image_uri"][end.number].as_py()
        if end.bug is not None:
            if uri is not None:
                self._bugs.add(uri)
            if uri is None or len(self._bugs) > _BUGS:
                raise end.bug
        reason = one_line(end.reason)[:300]
        crash = Crash(span.start, span.stop - 1, uri, end.at, reason, end.low_memory)
        log.warning("died shard=%s %s", shard.id, asdict(crash))
        return crash
