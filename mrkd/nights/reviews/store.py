"""Verdicts as they are stored: one Parquet file an import, never changed.

reviews/imports/<n>.parquet        rows of `REVIEWS`, those of the n-th import
        images/<sha256><suffix>    bytes of confirmed false calls, for later trainings
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from mrkd import storage
from mrkd.errors import ArtefactError
from mrkd.nights.reviews.labels_csv import Call
from mrkd.run_summary import now
from mrkd.storage import schema
from mrkd.storage.thread_map import in_threads

REVIEWS_VERSION = 1


@dataclass(frozen=True)
class Review:
    """One verdict, and the row that it is on.

    Args:
        image_uri: URI as nights list it.
        category: category that it was filed under.
        image_etag: ETag of the bytes that were scored; empty where a night did not know it.
        verdict: the person's verdict.
        by: person who gave the verdict.
        at: time of the verdict, UTC, ISO 8601.
        run: the newest night that scored these bytes.
        called: call of that night: OK, NOK or ERROR.
        sha256: digest of the bytes; empty where the archive did not hold them any more.
        copy: file below `reviews` that holds a confirmed false call; else empty.
    """

    image_uri: str
    category: str
    image_etag: str
    verdict: Call
    by: str
    at: str
    run: str
    called: str
    sha256: str = ""
    copy: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What it is a verdict on."""
        return self.image_uri, self.image_etag


REVIEWS = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in Review.__dataclass_fields__],
    metadata={"schema": "mrkd.reviews", "schema_version": str(REVIEWS_VERSION)},
)
"""Rows of an import; see `Review`."""


def folder_of(workspace: str) -> str:
    """The folder of a workspace's verdicts."""
    return storage.join(workspace, "reviews")


def read(workspace: str) -> list[Review]:
    """The verdicts that count, by image: of several on the same bytes the newest.

    Raises:
        ArtefactError: a file is damaged, or is none of them.
        StorageError: the workspace cannot be read.
    """
    dated = [replace(one, at=counts_from) for counts_from, one in newest(workspace)]
    return sorted(dated, key=lambda one: one.key)


def newest(workspace: str) -> list[tuple[str, Review]]:
    """The verdicts that count as they were imported, each with the time that it counts from.

    Raises:
        ArtefactError, StorageError: as `read`.
    """
    found: dict[tuple[str, str], tuple[str, Review]] = {}
    for reviews in in_threads(_read, [_uri(workspace, number) for number in numbers(workspace)]):
        for counts_from, review in reviews:
            before = found.get(review.key)
            if before is None or counts_from >= before[0]:
                found[review.key] = counts_from, review
    return list(found.values())


def _read(uri: str) -> list[tuple[str, Review]]:
    """The rows of one import, each with the time that it counts from."""
    table = schema.from_parquet(storage.read(uri), name=uri)
    if not table.schema.equals(REVIEWS):
        raise ArtefactError(f"{uri} holds no verdicts of this version: import them again")
    # Nobody looks after the import: a later date would outrank all verdicts that follow.
    imported_at = (table.schema.metadata or {}).get(b"imported_at", b"9999").decode()
    reviews = (Review(**row) for row in table.to_pylist())
    return [(min(one.at, imported_at), one) for one in reviews]


def add(workspace: str, reviews: Sequence[Review], *, by: str) -> str:
    """Stores an import's verdicts, one at least, and returns the URI of its file."""
    facts = {**(REVIEWS.metadata or {}), b"imported_at": now(), b"imported_by": by}
    table = pa.Table.from_pylist(list(map(asdict, reviews)), REVIEWS.with_metadata(facts))
    data = schema.to_parquet(table)
    number = max(numbers(workspace), default=0) + 1
    while not storage.write(_uri(workspace, number), data, if_absent=True):
        number += 1  # another import's, meanwhile
    return _uri(workspace, number)


def numbers(workspace: str) -> list[int]:
    """Numbers of the imports, rising."""
    return storage.list_numbers(storage.join(folder_of(workspace), "imports"), suffix=".parquet")


def _uri(workspace: str, number: int) -> str:
    return storage.join(folder_of(workspace), "imports", f"{number}.parquet")
