"""The images in a tar, found by its headers alone and never extracted.

ustar, GNU and pax, with long names of both kinds. Whatever a header claims is bounded, and names
are only text: `../../etc/x.png` is the name of a member and never a path that is opened.

Not by `tarfile` alone: that of Python 3.11 passes over damaged pax records, so that a name is wrong
unnoticed, and its time is quadratic in a pax header's digits (CVE-2024-6232; 32 KiB take 1 s).
"""

from __future__ import annotations

import json
import logging
import math
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from mrkd import storage
from mrkd.errors import StorageError
from mrkd.nights.archive.range_file import RangeFile
from mrkd.storage import FileEntry

log = logging.getLogger(__name__)

_BLOCK = tarfile.BLOCKSIZE
_TEXT = ("utf-8", "surrogateescape")
_EXTENSION_BYTES = 2**20
"""A longer name, or set of pax records, is taken for damage."""
_JSON_BYTES = 2**16
_PADDING_BYTES = 2**20
"""After so many zeros past its end mark a tar is over; another one may follow before that."""
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENSIONS = (*_PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_RECORD = re.compile(rb"(\d{1,10}) ([^=]+)=")


class Problem(NamedTuple):
    """Why an image cannot be read, as its row will say."""

    kind: str
    message: str


@dataclass(frozen=True)
class Member:
    """An image in a tar.

    Attributes:
        name: name in the tar, as it is.
        offset: position of its first byte in the tar.
        num_bytes: its size.
        problem: reason why it cannot be read, where that is known.
    """

    name: str
    offset: int
    num_bytes: int
    problem: Problem | None = None


@dataclass
class TarContent:
    """What a tar holds.

    Attributes:
        members: its images by name; of several with one name the last counts.
        fields: string and number fields of its WebDataset JSONs, by the name without `.json`.
        damage: reason why it could not be read to its end.
        passed_over: numbers of its other members by suffix, but for the JSONs of `fields`.
    """

    members: dict[str, Member] = field(default_factory=dict)
    fields: dict[str, dict[str, str]] = field(default_factory=dict)
    damage: Problem | None = None
    passed_over: Counter[str] = field(default_factory=Counter)

    def fields_of(self, name: str) -> dict[str, str]:
        """Those of the JSON beside an image: `a/7.json` is beside `a/7.png` and `a/7.seg.png`."""
        folder, slash, base = name.rpartition("/")
        stems = (base.rpartition(".")[0], base.partition(".")[0])
        found = (self.fields.get(f"{folder}{slash}{stem}") for stem in stems)
        return next((fields for fields in found if fields is not None), {})


def read_tar(file: FileEntry, suffixes: tuple[str, ...]) -> TarContent:
    """The images in a tar, up to where it is damaged or can no longer be read.

    Images are files whose names end in one of `suffixes`, in any case. Another ETag than that of
    `file` ends the reading (`changed`).
    """
    content, stream = TarContent(), RangeFile(file)
    endings = tuple(suffix.lower() for suffix in suffixes)
    try:
        for member in _members(stream):
            if storage.is_wanted(member.name, endings):
                content.members[member.name] = member
                continue
            fields = None
            if member.name.lower().endswith(".json") and member.problem is None:
                fields = _read_json(stream, member)
            if fields is None:
                storage.count_suffix(content.passed_over, member.name)
            else:
                content.fields[member.name[: -len(".json")]] = fields
    except _DamageError as error:
        content.damage = error.problem
    except StorageError as error:
        content.damage = Problem(error.kind, str(error))
    if content.damage:
        log.warning("tar_damaged uri=%r reason=%r", file.uri, content.damage.message)
    return content


class _DamageError(Exception):
    """The tar cannot be read on."""

    def __init__(self, kind: str, file: FileEntry, position: int, what: str) -> None:
        message = (
            f"{file.uri} is damaged at byte {position:,} ({what}), its later members are "
            "unknown: make the tar again"
        )
        super().__init__(message)
        self.problem = Problem(kind, message)


def _members(stream: RangeFile) -> Iterator[Member]:
    """All but folders, one after the other, to the file's end.

    Raises:
        _DamageError: after the last one that could be read.
    """
    file = stream.file
    position, zeros, names = 0, 0, dict[str, bytes]()
    everywhere: dict[str, bytes] = {}
    if not file.num_bytes:
        raise _DamageError("empty", file, 0, "it has 0 bytes")
    while position < file.num_bytes and zeros * _BLOCK < _PADDING_BYTES:
        block = stream.read_at(position, _BLOCK)
        if not block.strip(b"\0"):
            zeros, position = zeros + 1, position + _BLOCK
            continue
        try:
            info = tarfile.TarInfo.frombuf(block, *_TEXT)
        except tarfile.HeaderError as error:
            if zeros:
                return  # what follows the end mark is not the tar's
            raise _no_header(file, position, block, error) from error
        if block[257:265] == tarfile.GNU_MAGIC:
            # Where ustar has a long name's beginning, `tar --incremental` has the file's times.
            info.name = block[:100].partition(b"\0")[0].decode(*_TEXT)
        zeros = 0
        start = position + _BLOCK
        if info.type in _EXTENSIONS:
            data = _extension(stream, start, info.size)
            if info.type == tarfile.XGLTYPE:
                everywhere |= _pax(data, file, start)
            elif info.type in _PAX:
                names |= _pax(data, file, start)
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                names.setdefault("path", data.partition(b"\0")[0])
            position = start + _padded(info.size)
            continue
        if info.type == tarfile.GNUTYPE_SPARSE:
            start = _after_sparse(stream, start, more=block[482])
        member = _member(info, everywhere | names, start, file)
        if not info.isdir():
            yield member
        names = {}
        holds = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        length = member.num_bytes if holds else 0
        if start + length > file.num_bytes:
            what = f"{member.name!r} should end at byte {start + length:,}"
            raise _DamageError("truncated", file, file.num_bytes, what)
        position = start + _padded(length)
    if not zeros:
        raise _DamageError("truncated", file, file.num_bytes, "the mark of a tar's end is missing")


def _member(info: tarfile.TarInfo, extra: dict[str, bytes], start: int, file: FileEntry) -> Member:
    """A member by its own header and the ones before it; its name is text that Arrow can hold."""
    size = extra.get("size", b"%d" % info.size)
    if not re.fullmatch(rb"\d{1,18}", size):
        raise _DamageError("decode", file, start - _BLOCK, "a member's size is not a number")
    raw = extra.get("GNU.sparse.name", extra.get("path", info.name.encode(*_TEXT)))
    name = raw.decode("utf-8", "backslashreplace")
    num_bytes, held = int(size), file.num_bytes - start
    kind, reason = "unsupported", ""
    if info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in extra):
        reason = "in its tar is stored sparse, in pieces: make the tar without --sparse"
    elif info.issym() or info.islnk():
        reason = "in its tar is a link: put the image itself into the tar (tar --dereference)"
    elif not info.isreg():
        reason = f"in its tar is not a regular file (type {info.type!r}): put an image there"
    elif name != raw.decode(*_TEXT):
        reason = "in its tar is not UTF-8: rename it"
    elif num_bytes > held:
        kind = "truncated"
        reason = f"has {max(0, held):,} of its {num_bytes:,} bytes in its tar: copy it again"
    problem = Problem(kind, f"{name!r} {reason}") if reason else None
    return Member(name, start, num_bytes, problem)


def _no_header(file: FileEntry, position: int, block: bytes, error: Exception) -> _DamageError:
    if len(block) < _BLOCK:
        return _DamageError("truncated", file, position, "it ends within a header")
    if not position and block.startswith(_COMPRESSED):
        return _DamageError("unsupported", file, 0, "it is compressed, ranges need a plain tar")
    return _DamageError("decode", file, position, str(error))


def _extension(stream: RangeFile, start: int, size: int) -> bytes:
    """The content of a header that describes the next one."""
    if not 0 <= size <= _EXTENSION_BYTES:
        raise _DamageError("decode", stream.file, start, f"a name or record of {size:,} bytes")
    data = stream.read_at(start, size)
    if len(data) < size:
        raise _DamageError("truncated", stream.file, stream.file.num_bytes, "within a long name")
    return data


def _after_sparse(stream: RangeFile, start: int, *, more: int) -> int:
    """Where the data of an old GNU sparse member begin: its map may take further blocks."""
    while more:
        block = stream.read_at(start, _BLOCK)
        if len(block) < _BLOCK:
            raise _DamageError("truncated", stream.file, stream.file.num_bytes, "in a sparse map")
        start, more = start + _BLOCK, block[504]
    return start


def _pax(data: bytes, file: FileEntry, start: int) -> dict[str, bytes]:
    """The records `<length> <key>=<value>` by key."""
    records, position = dict[str, bytes](), 0
    while position < len(data) and data[position]:
        match = _RECORD.match(data, position)
        end = position + int(match[1]) if match else 0
        if not match or not match.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise _DamageError("decode", file, start + position, "its pax records are none")
        records[match[2].decode("utf-8", "replace")] = data[match.end() : end - 1]
        position = end
    return records


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // _BLOCK) * _BLOCK


def _read_json(stream: RangeFile, member: Member) -> dict[str, str] | None:
    """The string and number fields as text; None, with a line in the log, where it has none."""
    try:
        if member.num_bytes > _JSON_BYTES:
            raise ValueError(f"it has {member.num_bytes:,} bytes, at most {_JSON_BYTES:,} are read")
        value = json.loads(stream.read_at(member.offset, member.num_bytes))
        if not isinstance(value, dict):
            raise ValueError("it is not an object")
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it is nested too deep"
        log.warning("json_ignored tar=%r member=%r reason=%r", stream.file.uri, member.name, reason)
        return None
    return {_text(key): _text(field) for key, field in value.items() if _is_flat(field)}


def _is_flat(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int) and not isinstance(value, bool)


def _text(value: object) -> str:
    """JSON may hold halves of surrogate pairs, which no Arrow string can."""
    return str(value).encode("utf-8", "backslashreplace").decode()
