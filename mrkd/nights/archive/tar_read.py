"""Members of tars by their offsets: many with one ranged read, each from the tar as listed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mrkd import storage
from mrkd.errors import StorageError
from mrkd.storage import Fetched

Row = Mapping[str, Any]
"""Of a plan: `image_uri`, `image_etag`, `image_bytes` and `offset` are used."""

Outcome = Fetched | StorageError
"""A member's bytes and its tar's ETag, or why it could not be read."""

_GAP_BYTES = 64 * 2**10
_SPAN_BYTES = 8 * 2**20


@dataclass(frozen=True)
class MemberSpan:
    """A range of one tar that is read in one request, and the members in it, by offset.

    A span holds at most 8 MiB and no gap above 64 KiB, unless one member alone is larger.
    """

    tar_uri: str
    rows: tuple[Row, ...]

    @property
    def start(self) -> int:
        """Its first byte in the tar."""
        return int(self.rows[0]["offset"])

    @property
    def num_bytes(self) -> int:
        """From the first byte of the first member to the last byte of any."""
        return max(_end(row) for row in self.rows) - self.start

    def read(self, *, max_bytes: int | None = None) -> Iterator[tuple[Row, Outcome]]:
        """Each row with its member's bytes, or with a StorageError of its kind.

        Members of more than `max_bytes` are not read (`too_large`).
        """
        # A span of several is never large, whatever its members are.
        found: Outcome | None = _too_large(self.rows[0], max_bytes) if len(self.rows) == 1 else None
        etag = self.rows[0]["image_etag"]
        try:
            found = found or storage.fetch_range(
                self.tar_uri, self.start, self.num_bytes, if_match=etag
            )
        except StorageError as error:
            found = error
        for row in self.rows:
            yield row, _too_large(row, max_bytes) or _member(row, found, self.start)


def spans(rows: Iterable[Row], tars: Sequence[str]) -> list[MemberSpan]:
    """The ranges that hold these members, of any number of tars; each may be read in a thread.

    Args:
        rows: rows of a plan that have an offset, in any order.
        tars: the archive's suffixes of tars (`ArchiveConfig.tars`).
    """
    by_tar: dict[tuple[str, str | None], list[Row]] = {}
    for row in rows:
        tar_uri, _ = split_member(row["image_uri"], tars)
        by_tar.setdefault((tar_uri, row["image_etag"]), []).append(row)
    return [span for (tar_uri, _), members in by_tar.items() for span in _cut(tar_uri, members)]


def read_members(
    rows: Iterable[Row], tars: Sequence[str] = (".tar",), *, max_bytes: int | None = None
) -> Iterator[tuple[Row, Outcome]]:
    """Each row with its member's bytes, or with a StorageError of its kind; by tar, then offset.

    One request reads many members, and of the tar that the plan knows: another ETag is `changed`.
    Arguments as `spans` and `MemberSpan.read` take them.
    """
    for span in spans(rows, tars):
        yield from span.read(max_bytes=max_bytes)


def split_member(uri: str, tars: Sequence[str]) -> tuple[str, str]:
    """The tar's URI and the member's name of `<tar uri>#<member>`.

    Cut after the first suffix of a tar that a `#` follows, where there is none at the first `#`;
    so either name may hold a `#`. The name is empty where the URI has none.
    """
    lower = uri.lower()
    ends = [at + len(suffix) for suffix in tars if (at := lower.find(f"{suffix.lower()}#")) >= 0]
    end = min(ends, default=uri.find("#"))
    return (uri[:end], uri[end + 1 :]) if end >= 0 else (uri, "")


def known_tars(rows: pa.Table, tars: Sequence[str]) -> dict[str, str]:
    """The ETag of each tar that a plan's rows name, by URI; of several ETags the last one.

    Of the rows `image_uri` and `image_etag` are used.
    """
    known: dict[str, str] = {}
    uris = rows["image_uri"]
    mask = pa.chunked_array([pa.repeat(False, len(uris))])
    for suffix in tars:
        named = pc.match_substring(uris, f"{suffix}#", ignore_case=True)
        mask = pc.or_(pc.or_(mask, named), pc.ends_with(uris, suffix, ignore_case=True))
    chosen = rows.select(["image_uri", "image_etag"]).filter(mask)
    for batch in chosen.to_batches(max_chunksize=65_536):
        for uri, etag in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if etag is not None:
                known[split_member(uri, tars)[0]] = etag
    return known


def _cut(tar_uri: str, rows: Iterable[Row]) -> Iterator[MemberSpan]:
    """The members of one tar as spans, by offset."""
    span: list[Row] = []
    end = 0
    for row in sorted(rows, key=lambda row: (row["offset"], row["image_uri"])):
        reach = max(end, _end(row))
        if span and (row["offset"] - end > _GAP_BYTES or reach - span[0]["offset"] > _SPAN_BYTES):
            yield MemberSpan(tar_uri, tuple(span))
            span, reach = [], _end(row)
        span.append(row)
        end = reach
    if span:
        yield MemberSpan(tar_uri, tuple(span))


def _member(row: Row, found: Outcome, start: int) -> Outcome:
    """The part of a span that is the row's member."""
    if isinstance(found, StorageError):
        return found
    begin = row["offset"] - start
    data = found.data[begin : begin + _size(row)]
    if len(data) < _size(row):
        return StorageError(
            f"{row['image_uri']!r} ends after {len(data):,} of its {_size(row):,} bytes, where "
            "its tar does: copy the tar again",
            "truncated",
        )
    return Fetched(data, found.etag)


def _too_large(row: Row, max_bytes: int | None) -> StorageError | None:
    if max_bytes is None or _size(row) <= max_bytes:
        return None
    return StorageError(
        f"{row['image_uri']!r} has {_size(row):,} bytes, at most {max_bytes:,} are read: raise "
        "archive.max_bytes or leave it out",
        "too_large",
    )


def _size(row: Row) -> int:
    return int(row["image_bytes"])


def _end(row: Row) -> int:
    return int(row["offset"]) + _size(row)
