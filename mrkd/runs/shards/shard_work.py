"""Work on one shard of a night, step by step: read, score, commit; and on a part of one.

An error that a user can mend ends its shard alone: it is the shard's `failure`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from mrkd.config import RowsConfig, ScoreConfig
from mrkd.data.preprocess import Decoded, ahead_of
from mrkd.errors import MrkdError
from mrkd.nights.night import Night
from mrkd.nights.shards import Shard
from mrkd.runs.shards.read_images import Row, decode, decoder_of, read_images
from mrkd.runs.shards.timings import Meter, Timings
from mrkd.storage import Fetched, schema

if TYPE_CHECKING:
    from mrkd.model.inference import Scorer


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


def read(work: Work, meter: Meter, config: ScoreConfig, *, threads: int, last: bool) -> Work:
    """Adds the images of a shard.

    Args:
        work: the shard.
        meter: meter of the step.
        config: config of the night.
        threads: requests that are under way at one time.
        last: whether an unreachable image is an error row like any other.
    """
    shard, pin = work.shard, work.shard.pin
    if pin is None:
        return work
    decoder = decoder_of(config.workspace, shard.category, pin.version, config.archive)

    def use(row: Row, got: Fetched) -> Decoded:
        with inner.time("decode"):
            return decode(decoder, row, got)

    with meter.time_threads() as inner:
        found = read_images(
            shard.rows.to_pylist(),
            config.archive,
            use,
            threads=min(threads, ahead_of(decoder)),
            last=last,
            meter=inner,
        )
    return replace(work, images=found)


def may_drop_maps(config: ScoreConfig) -> bool:
    """Whether a night that is late stores no maps."""
    return config.deadline.degraded == "scores_only" and config.rows.map != "none"


def score(
    work: Work, meter: Meter, scorer: Scorer, rows: RowsConfig, *, without_maps: bool
) -> Work:
    """Replaces the images by the table of their rows, marked where maps were dropped."""
    drop = without_maps and work.shard.pin is not None
    with meter.time("score"):
        own = replace(rows, map="none") if drop else rows
        table = score_shard(scorer, work.shard, work.images, own)
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


def commit(work: Work, meter: Meter, night: Night) -> Work:
    """Stores the table, and replaces it by the counts of its rows."""
    with meter.time("commit"):
        done = night.commit(work.shard, work.table)
    return replace(work, table=None, counts=done.counts)


def score_part(
    part: Shard,
    meter: Meter,
    config: ScoreConfig,
    new_scorer: Callable[[], Scorer],
    report: Callable[[str, int | None], None],
    *,
    threads: int,
    last: bool,
) -> Work:
    """The rows of a part of a shard, with a report before each step.

    Args:
        part: the part.
        meter: meter of the steps.
        config: config of the night.
        new_scorer: function that gives the scorer.
        report: function that is called with `read`, `decode` and the number of the image, `score`.
        threads: requests that are under way at one time.
        last: whether an unreachable image is an error row like any other.
    """
    pin = part.pin
    if pin is None:
        return Work(part, table=part.without_model())
    scorer = new_scorer()
    # A model that does not fit into memory is not the fault of an image: loaded before the first.
    score_shard(scorer, replace(part, rows=part.rows.slice(0, 0)), (), config.rows)
    decoder = decoder_of(config.workspace, part.category, pin.version, config.archive)
    rows: list[Row] = part.rows.to_pylist()
    report("read", None)
    with meter.time("read"):
        found = read_images(
            rows,
            config.archive,
            lambda row, got: got,
            threads=threads,
            last=last,
            meter=Meter(),
        )
    images = []
    with meter.time("decode"):
        for number, (row, got) in enumerate(zip(rows, found, strict=True)):
            if isinstance(got, Fetched):
                report("decode", number)
                got = decode(decoder, row, got)
            images.append(got)
    report("score", None)
    with meter.time("score"):
        return Work(part, table=score_shard(scorer, part, images, config.rows))
