"""Operations that every kind of storage has: the local file system and S3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from mrkd.errors import StorageError


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


class Store(Protocol):
    """The operations of one kind of storage, on canonical URIs; `mrkd.storage` documents them."""

    def files(self, uri: str) -> Iterator[list[FileEntry]]:
        """All files below a folder, some at a time, in any order; none where there is none."""

    def has_files(self, uri: str) -> bool:
        """Whether a folder has a file somewhere below it."""

    def folders(self, uri: str) -> Iterator[str]:
        """Names of the folders right below a folder, in any order."""

    def stat(self, uri: str) -> FileEntry | None:
        """The file's entry, None where it does not exist."""

    def fetch(self, uri: str, *, if_match: str | None, max_bytes: int | None) -> Fetched:
        """The file's bytes and ETag."""

    def fetch_range(self, uri: str, start: int, length: int, *, if_match: str | None) -> Fetched:
        """Some of the file's bytes, fewer only at its end, and its ETag."""

    def write(self, uri: str, data: bytes, *, if_absent: bool, if_match: str | None) -> bool:
        """Whether it was written: False where the condition did not hold."""

    def delete(self, uri: str) -> None:
        """Removes the file, if it is there."""


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
