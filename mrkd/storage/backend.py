"""Values and errors that every kind of storage gives: the local file system and S3."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from mrkd.errors import StorageError

_MOST_KINDS = 30
"""Kinds of files that are counted apart."""


class FileEntry(NamedTuple):
    """One listed file.

    Attributes:
        uri: canonical URI.
        num_bytes: its size.
        etag: changes when the content does; local `<size>-<mtime_ns>`, else S3's, without quotes.
    """

    uri: str
    num_bytes: int
    etag: str


class Fetched(NamedTuple):
    """A file's bytes and the ETag of exactly these bytes."""

    data: bytes
    etag: str


def check_size(uri: str, num_bytes: int, max_bytes: int | None) -> None:
    """Refuses a file before it is read.

    Raises:
        StorageError: (too_large) it has more than `max_bytes`.
    """
    if max_bytes is not None and num_bytes > max_bytes:
        raise StorageError(
            f"{uri} has {num_bytes:,} bytes, at most {max_bytes:,} are read: raise the limit "
            "or leave it out",
            "too_large",
        )


def changed(uri: str) -> StorageError:
    """The error (changed) of a file that is not, or no longer, the one that was asked for."""
    return StorageError(f"{uri} has changed since it was listed: list it again", "changed")


def add_bounded(counts: Counter[str], kind: str, rest: str, number: int = 1) -> None:
    """Counts under `kind`, or under `rest` where there are too many kinds already."""
    known = kind in counts or len(counts) < _MOST_KINDS
    counts[kind if known else rest] += number
