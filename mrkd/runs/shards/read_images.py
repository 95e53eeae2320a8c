"""Reader of a shard's images: single files and members of tars."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from typing import Any, TypeVar

from mrkd import storage
from mrkd.config import ArchiveConfig
from mrkd.data.images import DecodeLimits
from mrkd.data.preprocess import Decoded, Preprocessor
from mrkd.errors import StorageError
from mrkd.model import artefact
from mrkd.nights import archive
from mrkd.nights.archive import MemberSpan
from mrkd.runs.shards.timings import Meter
from mrkd.storage import Fetched

T = TypeVar("T")
Row = Mapping[str, Any]
"""A row of a plan (`schema.PLAN`)."""


def read_images(
    rows: Sequence[Row],
    config: ArchiveConfig,
    use: Callable[[Row, Fetched], T],
    *,
    threads: int,
    last: bool,
    meter: Meter,
) -> list[T | Decoded]:
    """The result of `use` for each image's bytes, in order, or the error of the image.

    Args:
        rows: rows of a plan.
        config: config of the archive.
        use: function that is called in threads, for the images that could be read.
        threads: requests that are under way at one time.
        last: whether an unreachable image is an error like any other.
        meter: meter of the reading.

    Raises:
        StorageError: an image is unreachable, and this is not the last try.
    """
    found: dict[int, T | Decoded] = {}
    used: dict[int, Future[T]] = {}

    def take(number: int, got: Fetched | StorageError) -> None:
        if isinstance(got, Fetched):
            used[number] = pool.submit(use, rows[number], got)
        elif got.kind == "unreachable" and not last:
            raise got
        else:
            found[number] = error_of(rows[number], got.kind, str(got))

    def file(number: int) -> None:
        row = rows[number]
        try:
            with meter.time("read"):
                got = storage.fetch(
                    row["image_uri"], if_match=row["image_etag"], max_bytes=config.max_bytes
                )
        except StorageError as error:
            take(number, error)
            return
        if row["image_bytes"] is None:
            # Its shard was not cut by bytes: used before the next is read, so that few are held.
            found[number] = use(row, got)
        else:
            take(number, got)

    def span(one: MemberSpan) -> None:
        with meter.time("read"):
            members = list(one.read(max_bytes=config.max_bytes))
        for row, got in members:
            take(numbers[row["image_uri"]], got)

    numbers = {row["image_uri"]: number for number, row in enumerate(rows)}
    with ThreadPoolExecutor(threads) as pool:
        reads = []
        members = []
        for number, row in enumerate(rows):
            if row["error_kind"]:
                found[number] = error_of(row, row["error_kind"], row["error_message"])
            elif row["offset"] is None:
                reads.append(pool.submit(file, number))
            else:
                members.append(row)
        reads += [pool.submit(span, one) for one in archive.spans(members, config.tars)]
        try:
            for read in reads:
                read.result()
            wait(used.values())
        finally:
            pool.shutdown(cancel_futures=True)
    return [
        found[number] if number in found else used[number].result() for number in range(len(rows))
    ]


def error_of(row: Row, kind: str, message: str) -> Decoded:
    """The error of an image that was planned and not decoded."""
    return Decoded(
        row["image_uri"],
        row["image_etag"] or "",
        row["image_bytes"] or 0,
        dict(row["attributes"] or ()),
        error_kind=kind,
        error_message=message,
    )


def decode(decoder: Preprocessor, row: Row, got: Fetched) -> Decoded:
    """The image at its model's size, or its error."""
    attributes = dict(row["attributes"] or ())
    return decoder(row["image_uri"], got.data, etag=got.etag, attributes=attributes)


@lru_cache(maxsize=64)
def decoder_of(workspace: str, category: str, version: str, config: ArchiveConfig) -> Preprocessor:
    """The decoder for a model.

    Raises:
        ArtefactError: the model's card is damaged.
    """
    card = artefact.read_card(workspace, category, version)
    return Preprocessor.of(card.model, DecodeLimits.of(config))
