"""What becomes of one shard of a night in the workers: read, score, commit; one row each.

An error that a user can mend ends its shard alone; it travels on and is told to the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pyarrow as pa

from mrkd import checkpoint, schema, scoring, storage
from mrkd.config import ArchiveConfig, ScoreConfig
from mrkd.errors import MrkdError, StorageError
from mrkd.images import DecodeLimits
from mrkd.nights import Night
from mrkd.on_ray import blocks, session
from mrkd.on_ray.session import READER_CPUS, Ask
from mrkd.plans import Shard
from mrkd.scoring import Decoded, Decoder, Scorer


@dataclass(frozen=True)
class Work:
    """What travels: a shard and how far it has come.

    Args:
        shard: of the plan.
        images: read and decoded, in the shard's order.
        table: its rows (`schema.SCORES`).
        failure: what ended it before it was committed.
    """

    shard: Shard
    images: Sequence[Decoded] = ()
    table: pa.Table | None = None
    failure: MrkdError | None = None


def read(row: pa.Table, *, config: ScoreConfig, last: bool) -> pa.Table:
    """Adds the images of a shard; on the last try one that cannot be reached is an error row."""
    session.enter_worker(Ask(READER_CPUS))
    return _step(row, lambda work: replace(work, images=_read(work.shard, config, last=last)))


class Score:
    """Holds a scorer, and with it the models in use, for the life of its process."""

    def __init__(self, config: ScoreConfig, ask: Ask) -> None:
        session.enter_worker(ask)
        self._scorer, self._rows = Scorer(config.workspace, config.pool), config.rows

    def __call__(self, row: pa.Table) -> pa.Table:
        """Puts the table of rows in the images' place."""
        return _step(row, lambda work: Work(work.shard, table=self._score(work)))

    def _score(self, work: Work) -> pa.Table:
        shard, model = work.shard, work.shard.pin
        if model is None:
            return shard.without_model()
        rows = self._scorer.score(
            work.images,
            category=shard.category,
            version=model.version,
            calibration=model.calibration,
            rows=self._rows,
        )
        rows = [row | {"revision": shard.revision} for row in rows]
        return schema.score_table(rows, category=shard.category, metadata={})


def commit(row: pa.Table, *, config: ScoreConfig) -> pa.Table:
    """Stores the table; what comes out is the shard alone."""
    session.enter_worker(Ask(READER_CPUS))

    def store(work: Work) -> Work:
        Night(config.workspace, config.run).commit(work.shard, work.table)
        return Work(work.shard)

    return _step(row, store)


def _step(row: pa.Table, do: Callable[[Work], Work]) -> pa.Table:
    """One step of one shard, unless an earlier one failed."""
    work: Work = blocks.unpack(row)
    if work.failure is None:
        try:
            work = do(work)
        except MrkdError as error:
            work = Work(work.shard, failure=error)
    return blocks.pack(work)


def _read(shard: Shard, config: ScoreConfig, *, last: bool) -> list[Decoded]:
    """The shard's images, in its order; what is wrong with one stands in its place.

    Raises:
        ArtefactError: the model's card is damaged.
        StorageError: an image cannot be reached, and this is not the last try.
    """
    if shard.pin is None:
        return []
    decoder = _decoder(config.workspace, shard.category, shard.pin.version, config.archive)

    def read(image: dict[str, Any]) -> Decoded:
        uri, etag, attributes = image["image_uri"], image["image_etag"], dict(image["attributes"])
        try:
            data, etag = storage.fetch(uri, if_match=etag, max_bytes=config.archive.max_bytes)
        except StorageError as error:
            if error.kind == "unreachable" and not last:
                raise
            size, reason = image["image_bytes"], str(error)
            return Decoded(uri, etag, size, attributes, error_kind=error.kind, error_message=reason)
        return decoder(uri, data, etag=etag, attributes=attributes)

    return list(scoring.in_threads(read, shard.rows.to_pylist()))


@lru_cache(maxsize=64)
def _decoder(workspace: str, category: str, version: str, archive: ArchiveConfig) -> Decoder:
    card = checkpoint.read_card(workspace, category, version)
    limits = DecodeLimits(archive.max_pixels, archive.max_bytes, archive.truncated)
    return Decoder(card.model.image_size, card.model.resize, limits)
