"""Local files, by canonical URIs `file:///absolute/path`."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import stat
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from mrkd.errors import StorageError
from mrkd.storage.backend import Fetched, FileEntry, add_bounded, changed, check_size
from mrkd.storage.uri import LOCAL

log = logging.getLogger(__name__)

FOLDER = "folder "
"""Begins what is counted for a folder that was passed over: its URI and the reason follow."""

_CHUNK = 1000
_OWN = ".mrkd-"
"""Begins the names of unfinished files and locks, which are never listed."""
_CLOSED = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors of a folder that stay until somebody mends it; others may pass, and are raised."""
_LOOP = "it links to a folder that holds it: remove the link"
_NOT_UTF8 = "its name is not UTF-8, so no row can name it: rename it"


class LocalStore:
    """Files of this machine, or of a file system mounted on it."""

    def files(self, uri: str, passed_over: Counter[str] | None = None) -> Iterator[list[FileEntry]]:
        r"""All files below a folder; links are followed, and one that leads nowhere is listed.

        A file whose name is not UTF-8 is listed by a URI with `\xff` for such a byte; its reading
        is an error (unsupported). A folder below that cannot be looked into, or that holds itself
        by a link, is passed over with a warning in the log, and counted with its reason.
        """
        with _explained(uri):
            if _path(uri).is_dir():
                found = _walk(str(_path(uri)), passed_over)
                while some := list(islice(found, _CHUNK)):
                    yield some

    def has_files(self, uri: str) -> bool:
        """Whether a folder has a file somewhere below it."""
        with _explained(uri):
            return _path(uri).is_dir() and next(_walk(str(_path(uri))), None) is not None

    def folders(self, uri: str) -> Iterator[str]:
        """Names of the folders right below a folder."""
        with _explained(uri):
            if _path(uri).is_dir():
                with os.scandir(_path(uri)) as children:
                    for name in (child.name for child in children if _is_folder(child)):
                        if _text(name) == name:
                            yield name
                        else:
                            found = f"{uri}/{_text(name)}"
                            log.warning("folder_passed_over reason=%s: %s", found, _NOT_UTF8)

    def stat(self, uri: str) -> FileEntry | None:
        """The file's entry, None where it does not exist."""
        path = _path(uri)
        with _explained(uri):
            status = _status(path)
            if status is None or not stat.S_ISREG(status.st_mode):
                return None
            return FileEntry(LOCAL + _text(str(path)), status.st_size, _etag(status))

    def fetch(self, uri: str, *, if_match: str | None, max_bytes: int | None) -> Fetched:
        """The file's bytes and ETag; it must not change while it is read."""
        with _unchanged(uri, if_match) as (file, status):
            check_size(uri, status.st_size, max_bytes)
            return Fetched(file.read(), _etag(status))

    def fetch_range(self, uri: str, start: int, length: int, *, if_match: str | None) -> Fetched:
        """Some of the file's bytes and its ETag; it must not change while they are read."""
        with _unchanged(uri, if_match) as (file, status):
            file.seek(start)
            return Fetched(file.read(length), _etag(status))

    def write(self, uri: str, data: bytes, *, if_absent: bool, if_match: str | None) -> bool:
        """Puts the whole file under its name in one step: own name, fsync, then link or rename."""
        path = _path(uri)
        unfinished, written = path.with_name(f"{_OWN}{uuid.uuid4().hex}"), False
        with _explained(uri):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with unfinished.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                if if_absent:
                    with suppress(FileExistsError):
                        path.hardlink_to(unfinished)
                        written = True
                elif if_match is not None:
                    written = _exchange(unfinished, path, if_match)
                else:
                    written = _replace(unfinished, path)
            finally:
                unfinished.unlink(missing_ok=True)
            with _opened(path.parent) as descriptor:
                os.fsync(descriptor)
        return written

    def delete(self, uri: str) -> None:
        """Removes the file, if it is there."""
        with _explained(uri):
            _path(uri).unlink(missing_ok=True)


def _path(uri: str) -> Path:
    return Path(uri.removeprefix(LOCAL))


def _status(path: Path) -> os.stat_result | None:
    """None where it does not exist; asked once, as it may be removed between two looks."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _etag(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def _text(path: str) -> str:
    r"""The path itself, or with `\xff` for each byte that is not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _is_misnamed(path: Path) -> bool:
    """Whether a path that is not there is `_text` of one that is."""
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda m: bytes([int(m[1], 16)]), os.fsencode(path))
    return raw != os.fsencode(path) and os.path.lexists(raw)


def _entry(child: os.DirEntry[str]) -> FileEntry | None:
    """The entry of a folder's child, None where it was removed since the folder was read."""
    uri = LOCAL + _text(child.path)
    gone = False
    for follow in (True, False):  # a link that leads nowhere has its own status
        try:
            status = child.stat(follow_symlinks=follow)
            return FileEntry(uri, status.st_size, _etag(status))
        except FileNotFoundError:
            gone = True
        except OSError:
            gone = False
    return None if gone else FileEntry(uri, 0, "0-0")  # its reading says why


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # a link to itself, or to where we may not look
        return False


def _walk(root: str, passed_over: Counter[str] | None = None) -> Iterator[FileEntry]:
    """The files below `root`, by a stack and not by recursion: a tree may be very deep."""
    folders: list[tuple[str, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    while folders:
        folder, above = folders.pop()
        uri = LOCAL + _text(folder)
        try:
            status = Path(folder).stat()
            this = (status.st_dev, status.st_ino)
            if this in above:
                _pass_over(f"{uri}: {_LOOP}", passed_over)
                continue
            children = os.scandir(folder)
        except OSError as error:
            reason = _error(uri, error)
            if folder == root or (reason.kind != "missing" and error.errno not in _CLOSED):
                raise reason from error
            if reason.kind != "missing":  # else removed since the folder above was read
                _pass_over(str(reason), passed_over)
            continue
        with _explained(uri), children:
            for child in children:
                if _is_folder(child):
                    folders.append((child.path, above | {this}))
                elif not child.name.startswith(_OWN) and (entry := _entry(child)):
                    yield entry


def _pass_over(reason: str, counts: Counter[str] | None) -> None:
    log.warning("folder_passed_over reason=%s", reason)
    if counts is not None:
        add_bounded(counts, f"{FOLDER}{reason}", f"{FOLDER}(others)")


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    # Not blocking, as a pipe that nobody writes to would hold its reader for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _unchanged(uri: str, if_match: str | None) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """A file to read from and its status, an error if that is not, or not for long, `if_match`."""
    with _explained(uri), _opened(_path(uri)) as descriptor:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise StorageError(f"{uri} is a folder or a device: name a file", "missing")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file, before
        etag = _etag(os.fstat(descriptor))
    if etag != _etag(before) or if_match not in (None, etag):
        raise changed(uri)


def _exchange(unfinished: Path, path: Path, if_match: str) -> bool:
    """Replaces the file if its ETag is `if_match`; writers with this condition exclude others."""
    # A lock file, not a lock on the folder: NFS locks only what is open for writing.
    with path.with_name(f"{_OWN}{path.name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status = _status(path)
        if status is None or _etag(status) != if_match:
            return False
        return _replace(unfinished, path)


def _replace(unfinished: Path, path: Path) -> bool:
    # Two writes in one tick of the clock would have one ETag if their sizes are equal.
    status = _status(path)
    if status and (last := status.st_mtime_ns) >= unfinished.stat().st_mtime_ns:
        os.utime(unfinished, ns=(last + 1, last + 1))
    unfinished.replace(path)
    return True


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turns an OSError into a StorageError of its kind."""
    try:
        yield
    except OSError as error:
        raise _error(uri, error) from error


def _error(uri: str, error: OSError) -> StorageError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        if _is_misnamed(_path(uri)):
            return StorageError(f"{uri}: {_NOT_UTF8}", "unsupported")
        return StorageError(f"{uri} is not there: check the path", "missing")
    if isinstance(error, PermissionError):
        message = f"{uri}: no permission: let this user at it, or run as one who may"
        return StorageError(message, "forbidden")
    reason = error.strerror or type(error).__name__
    return StorageError(f"{uri}: {reason}: check the file system")
