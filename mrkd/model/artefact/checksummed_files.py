"""Files whose content is checked by sha256 when it is read.

A sealed JSON file carries the sha256 of its own content under "sha256"; the sha256 of any other
file is kept by the file that refers to it. A damaged file is never used, and a file's size is
bounded before it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mrkd import storage
from mrkd.errors import ArtefactError, StorageError

SCHEMA_VERSION = 1
MAX_JSON_BYTES = 16 * 2**20
_ADVICE = "restore the file from a copy, or delete its folder and train again"


def sha256(data: bytes) -> str:
    """Hexadecimal digest."""
    return hashlib.sha256(data).hexdigest()


def to_json(content: Mapping[str, Any], *, schema: int = SCHEMA_VERSION) -> bytes:
    """A sealed, indented JSON file of `content`; the same bytes for equal contents.

    Raises:
        ValueError: `content` holds a number that is not finite.
    """
    content = {**content, "schema": schema}
    return _canonical({**content, "sha256": sha256(_canonical(content))})


def read_json(uri: str) -> dict[str, Any]:
    """The content of a sealed JSON file.

    Raises:
        ArtefactError: it is missing, any byte of it was changed, or its schema is another.
        StorageError: the URI cannot be read.
    """
    data = _read(uri, MAX_JSON_BYTES)
    try:
        content = json.loads(data)
        found = content.pop("schema")
        intact = content.pop("sha256") and to_json(content, schema=found) == data
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise _damaged(uri)
    if found != SCHEMA_VERSION:
        raise ArtefactError(
            f"{uri} has schema {found}, this version of mrkd reads {SCHEMA_VERSION}: use the "
            "version that wrote it, or train again"
        )
    return dict(content)


def read(uri: str, *, digest: str, max_bytes: int) -> bytes:
    """The bytes of a file whose sha256 is `digest`.

    Raises:
        ArtefactError: it is missing, exceeds `max_bytes` or has another digest.
        StorageError: the URI cannot be read.
    """
    data = _read(uri, max_bytes)
    if sha256(data) != digest:
        raise _damaged(uri)
    return data


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, indent=1, allow_nan=False).encode() + b"\n"


def _read(uri: str, max_bytes: int) -> bytes:
    try:
        return storage.fetch(uri, max_bytes=max_bytes).data
    except StorageError as error:
        if error.kind not in ("missing", "too_large"):
            raise
        raise ArtefactError(f"{uri} is {error.kind.replace('_', ' ')}: {_ADVICE}") from error


def _damaged(uri: str) -> ArtefactError:
    return ArtefactError(f"{uri} is damaged, it is not what was written: {_ADVICE}")
