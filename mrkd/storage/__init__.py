"""Files by their URI, in any storage: a local path, `file:///...` or `s3://bucket/key`.

A URI is taken as it is written: nothing is percent-decoded, so `a b#1%.png` is that very name.
Local paths become absolute `file:///...` URIs, not percent-encoded either. Endpoint, region and
credentials of S3 come from the AWS environment or chain alone (`AWS_ENDPOINT_URL`, `AWS_REGION`,
...), so that another server needs no code, and no config, URI or message holds a secret.

A file appears whole or not at all, and a write may depend on what is stored there. S3 knows no
folders, so of local ones too only those with files in them exist. Every function raises
`StorageError`, with a `kind` of `schema.ERROR_KINDS`: missing, forbidden, changed, too_large,
unsupported (a name that is not UTF-8), and unreachable for the rest.
"""

from __future__ import annotations

import json
import operator
from collections import Counter
from collections.abc import Generator
from itertools import compress
from typing import TYPE_CHECKING, Any

from pyarrow import fs

from mrkd.errors import StorageError
from mrkd.storage.backend import Fetched, FileEntry, add_bounded
from mrkd.storage.local import FOLDER, LocalStore
from mrkd.storage.request_counts import requests
from mrkd.storage.uri import LOCAL, S3, canonical, split

if TYPE_CHECKING:
    from mrkd.storage.s3 import S3Store

__all__ = [
    "FOLDER",
    "Fetched",
    "FileEntry",
    "add_bounded",
    "count_suffix",
    "delete",
    "exists",
    "fetch",
    "fetch_range",
    "is_wanted",
    "iter_files",
    "join",
    "list_files",
    "list_names",
    "list_numbers",
    "open_uri",
    "read",
    "read_json",
    "requests",
    "stat",
    "write",
    "write_json",
]


_LONGEST_SUFFIX = 8


def open_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """The pyarrow file system of a URI and the path in it, for pyarrow's own readers.

    Never write through it: pyarrow completes an S3 stream that an exception dropped, so that half
    a file appears. `write` puts whole ones.
    """
    uri = canonical(uri)
    if uri.startswith(S3):
        bucket, key = split(uri)
        # From a URI: the bare constructor does not read AWS_ENDPOINT_URL.
        filesystem, _ = fs.FileSystem.from_uri(f"{S3}{bucket}")
        return filesystem, f"{bucket}/{key}".rstrip("/")
    return fs.LocalFileSystem(), uri.removeprefix(LOCAL)


def join(uri: str, *parts: str) -> str:
    """The canonical URI of a path below `uri`, or of `uri` itself, without a slash at its end."""
    uri = canonical(uri)
    names = [name for part in parts if (name := part.strip("/"))]
    if uri.startswith(S3):
        uri = uri.rstrip("/")
    return "/".join([uri.removesuffix("/"), *names]) if names else uri


def list_files(uri: str, *, suffixes: tuple[str, ...] = ()) -> list[FileEntry]:
    """All files below a folder, at any depth, sorted by URI; none where it does not exist.

    Args:
        uri: the folder.
        suffixes: only names that end in one of these, in any case; none: all files.
    """
    return sorted(file for some in iter_files(uri, suffixes=suffixes) for file in some)


def iter_files(
    uri: str, *, suffixes: tuple[str, ...] = (), passed_over: Counter[str] | None = None
) -> Generator[list[FileEntry], None, None]:
    """The files of `list_files`, at most 1,000 at a time and in any order.

    On S3 many listers work side by side where there are folders below; a few pages are held.

    Args:
        uri: URI of the folder.
        suffixes: endings of the files that are wanted, in any case; none: all are.
        passed_over: counts the other files, by suffix, and folders that cannot be looked into. With
            it, what macOS writes beside a file (`._x.png`) is never wanted.
    """
    store, uri = _open(uri)
    endings = tuple(suffix.lower() for suffix in suffixes)
    for some in store.files(uri, passed_over):
        if endings and passed_over is None:
            some = [file for file in some if file.uri.lower().endswith(endings)]
        elif endings and passed_over is not None:
            wanted = [is_wanted(file.uri, endings) for file in some]
            for file in compress(some, map(operator.not_, wanted)):
                count_suffix(passed_over, file.uri)
            some = list(compress(some, wanted))
        if some:
            yield some


def is_wanted(uri: str, endings: tuple[str, ...]) -> bool:
    """Whether a name ends in one of `endings`, in lower case, and is not what macOS adds to it."""
    return uri.lower().endswith(endings) and not uri.rpartition("/")[2].startswith("._")


def count_suffix(counts: Counter[str], uri: str) -> None:
    """Counts a file that is passed over; suffixes without end are counted together."""
    add_bounded(counts, _suffix(uri), "others")


def _suffix(uri: str) -> str:
    """The suffix in lower case, of an archive with its `.tar`; a word where there is none."""
    name = uri.rpartition("/")[2].lower()
    if name.startswith("."):
        return "hidden"
    stem, _, suffix = name.rpartition(".")
    if not stem or not suffix or len(suffix) > _LONGEST_SUFFIX:
        return "no suffix"
    return f".tar.{suffix}" if stem.endswith(".tar") else f".{suffix}"


def list_names(uri: str) -> list[str]:
    """Names of the folders right below a folder, sorted; none where it does not exist."""
    store, uri = _open(uri)
    return sorted(store.folders(uri))


def list_numbers(uri: str, *, suffix: str = ".json") -> list[int]:
    """Numbers of the files `<number><suffix>` in a folder, rising; none where there is none."""
    files = list_files(uri, suffixes=(suffix,))
    stems = [file.uri.rpartition("/")[2].removesuffix(suffix) for file in files]
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def stat(uri: str) -> FileEntry | None:
    """Canonical URI, size and ETag of a file; None where it does not exist."""
    store, uri = _open(uri)
    return store.stat(uri)


def exists(uri: str) -> bool:
    """Whether `uri` is a file, or a folder with a file somewhere below it."""
    store, uri = _open(uri)
    return store.stat(uri) is not None or store.has_files(uri)


def fetch(uri: str, *, if_match: str | None = None, max_bytes: int | None = None) -> Fetched:
    """The bytes of a file and the ETag of exactly these bytes.

    Args:
        uri: the file.
        if_match: ETag that the file must have.
        max_bytes: size up to which it is read at all.

    Raises:
        StorageError: it cannot be read; `kind` is changed where its ETag is another, or where it
            changed while it was read, and too_large where it exceeds `max_bytes`.
    """
    store, uri = _open(uri)
    return store.fetch(uri, if_match=if_match, max_bytes=max_bytes)


def fetch_range(uri: str, start: int, length: int, *, if_match: str | None) -> Fetched:
    """The bytes `[start, start + length)` of a file and its ETag; fewer only at the file's end.

    Args:
        uri: the file.
        start: offset of the first byte; at or behind the file's end there are none.
        length: number of bytes; 0 only asks for the ETag.
        if_match: ETag that the file must have.

    Raises:
        StorageError: as `fetch`.
    """
    if start < 0 or length < 0:
        raise ValueError(f"a range of {length} bytes from byte {start}: neither may be negative")
    store, uri = _open(uri)
    return store.fetch_range(uri, start, length, if_match=if_match)


def read(uri: str) -> bytes:
    """The bytes of a file; errors as `fetch`."""
    return fetch(uri).data


def write(uri: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> bool:
    """Puts a whole file in one atomic step; True if the file now is `data`.

    A refused write still gives True where the file that is there equals `data`: mostly it is
    our own, put by a request that was repeated because its answer got lost. A caller that decides a
    race by a write must therefore put something of itself into `data`.

    Args:
        uri: the file; its folders are made.
        data: its content.
        if_absent: write only where the file does not exist.
        if_match: write only over a file with this ETag.

    Returns:
        False where the condition did not hold and other content is there.
    """
    if if_absent and if_match is not None:
        raise ValueError("if_absent and if_match exclude each other")
    store, uri = _open(uri)
    if store.write(uri, data, if_absent=if_absent, if_match=if_match):
        return True
    # Not by ETag: S3's is the content's MD5 only without KMS encryption and without parts.
    found = store.stat(uri)
    if found is None or found.num_bytes != len(data):
        return False
    try:
        return read(uri) == data
    except StorageError as error:
        if error.kind not in ("missing", "changed"):
            raise
        return False  # removed or written over since


def delete(uri: str) -> None:
    """Removes a file, if it is there."""
    store, uri = _open(uri)
    store.delete(uri)


def read_json(uri: str) -> Any:
    """The value of a JSON file.

    Raises:
        StorageError: it cannot be read, or is not JSON in UTF-8.
    """
    try:
        return json.loads(read(uri))
    except (ValueError, RecursionError) as error:  # the latter: brackets in brackets
        raise StorageError(f"{uri} is not JSON ({error}): it is damaged, or no file of ours") from (
            error
        )


def write_json(
    uri: str, value: Any, *, if_absent: bool = False, if_match: str | None = None
) -> bool:
    """Puts a value as a JSON file, indented and in UTF-8; conditions and result as `write`."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return write(uri, f"{text}\n".encode(), if_absent=if_absent, if_match=if_match)


def _open(uri: str) -> tuple[LocalStore | S3Store, str]:
    """The store of a URI, and that URI in canonical form."""
    uri = canonical(uri)
    if uri.startswith(S3):
        from mrkd.storage.s3 import S3Store  # not above: it loads the SDK, which local files spare

        return S3Store(), uri
    return LocalStore(), uri
