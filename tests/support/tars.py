"""Small tars, written by Python's own tarfile and then, where a test says so, damaged."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from mrkd import storage
from mrkd.config import ArchiveConfig
from mrkd.nights.archive import list_images

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


def images(folder, template="{category}/{tar}/{name}", known=None, **values):
    """What an archive holds, one dict a row (`archive.IMAGES`)."""
    config = ArchiveConfig(uri=str(folder), template=template, **values)
    return list_images(config, known or {}).to_pylist()


def only(folder, **values):
    """Its one row."""
    (row,) = images(folder, **values)
    return row


def problems(folder):
    """The error kind of each row, by the last part of its URI."""
    return {row["image_uri"].rpartition("/")[2]: row["error_kind"] for row in images(folder)}
