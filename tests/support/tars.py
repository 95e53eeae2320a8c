"""Small tars, written by Python's own tarfile and then, where a test says so, damaged."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from mrkd import storage

Content = bytes | tarfile.TarInfo


def tar_bytes(
    members: Mapping[str, Content] | list[tuple[str, Content]],
    *,
    format: int = tarfile.PAX_FORMAT,
    errors: str = "surrogateescape",
) -> bytes:
    """A tar: of each name the bytes, or a header without any."""
    sink = io.BytesIO()
    items = members.items() if isinstance(members, Mapping) else members
    with tarfile.open(fileobj=sink, mode="w", format=format, errors=errors) as tar:
        for name, content in items:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                tar.addfile(info)
    return sink.getvalue()


def special(kind: bytes, link: str = "") -> tarfile.TarInfo:
    """The header of a link, a folder or a device."""
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, link
    return info


def put(folder: Path | str, key: str, data: bytes) -> str:
    """Writes a file and returns its URI."""
    uri = storage.join(str(folder), key)
    storage.write(uri, data)
    return uri


def block_of(data: bytes, content: bytes) -> int:
    """Where the header of the member with that content begins."""
    return data.index(content) - tarfile.BLOCKSIZE
