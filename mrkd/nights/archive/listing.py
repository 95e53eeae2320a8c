"""Turns what a listing or a manifest names into the rows of its images."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import NamedTuple

import pyarrow as pa

from mrkd import storage
from mrkd.config import ArchiveConfig
from mrkd.errors import StorageError
from mrkd.nights.archive.image_table import ImageRow, to_batches
from mrkd.nights.archive.key_template import Template, to_category
from mrkd.nights.archive.tar_index import Problem, TarContent, read_tar
from mrkd.storage import FileEntry

log = logging.getLogger(__name__)

_TARS_AT_ONCE = 8


class Entry(NamedTuple):
    """An image, or a tar of images, as something names it.

    Attributes:
        uri: canonical; a tar member is `<tar uri>#<member>`.
        key: text that the template reads.
        etag: ETag of the file, a member's is its tar's; None: whatever is read will be scored.
        num_bytes: size of the image; None: not known.
        given: fields that a manifest has, which go before the template's.
        offset: position of a member's first byte in its tar.
        problem: reason why it cannot be read, where that is known.
    """

    uri: str
    key: str
    etag: str | None
    num_bytes: int | None
    given: Mapping[str, str] = {}
    offset: int | None = None
    problem: Problem | None = None


def list_entries(config: ArchiveConfig, passed_over: Counter[str]) -> Iterator[Entry]:
    """The images and tars below `config.uri`, in any order; other files are counted by suffix."""
    root = storage.join(config.uri).rstrip("/") + "/"
    endings = (*config.suffixes, *config.tars)
    for files in storage.iter_files(config.uri, suffixes=endings, passed_over=passed_over):
        for file in files:
            yield Entry(file.uri, file.uri.removeprefix(root), file.etag, file.num_bytes)


def read_entries(
    entries: Iterable[Entry],
    config: ArchiveConfig,
    known: Mapping[str, str],
    passed_over: Counter[str],
) -> tuple[list[pa.RecordBatch], int]:
    """The rows of all images (`IMAGES`), and how many tars were read for them, 8 at once.

    A tar in `known`, ETags by URI, is left out while it has that ETag. Members that are passed over
    are counted by suffix.

    Raises:
        ConfigError: the template is wrong.
        StorageError: the entries cannot be listed, or not one tar can be reached.
    """
    template = Template(config.template)
    endings = tuple(suffix.lower() for suffix in config.tars)
    found: list[Future[_Tar]] = []

    def plain() -> Iterator[ImageRow]:
        for entry in entries:
            whole = entry.offset is None and entry.problem is None
            if not (whole and endings and entry.uri.lower().endswith(endings)):
                yield _row(entry, template)
            elif entry.etag is None or known.get(entry.uri) != entry.etag:
                found.append(pool.submit(_read, entry, template, config))

    with ThreadPoolExecutor(_TARS_AT_ONCE, thread_name_prefix="tar") as pool:
        try:
            batches = list(to_batches(plain()))
            results = [future.result() for future in found]
        finally:
            pool.shutdown(cancel_futures=True)
    for tar in results:
        for suffix, number in tar.passed_over.items():
            storage.add_bounded(passed_over, suffix, "others", number)
    damages = [tar.damage for tar in results if tar.damage is not None]
    unreachable = [damage for damage in damages if damage.kind == "unreachable"]
    if results and len(unreachable) == len(results):
        raise StorageError(unreachable[0].message)
    return batches + [batch for tar in results for batch in tar.batches], len(results)


class _Tar(NamedTuple):
    """The rows of one tar, what is wrong with itself, and its other members by suffix."""

    batches: list[pa.RecordBatch]
    damage: Problem | None
    passed_over: Counter[str]


def _read(entry: Entry, template: Template, config: ArchiveConfig) -> _Tar:
    file, content = _open(entry, config)
    members = (_member_row(entry, file, name, content, template) for name in content.members)
    damaged: list[ImageRow] = []
    if content.damage:
        own = entry._replace(etag=file.etag, num_bytes=file.num_bytes, problem=content.damage)
        damaged = [_row(own, template)]
    batches = list(to_batches(chain(members, damaged)))
    log.debug("tar_read uri=%r images=%d", file.uri, len(content.members))
    return _Tar(batches, content.damage, content.passed_over)


def _open(entry: Entry, config: ArchiveConfig) -> tuple[FileEntry, TarContent]:
    """The tar as it is listed, or is now where a manifest does not say, and what it holds."""
    file = FileEntry(entry.uri, entry.num_bytes or 0, entry.etag or "")
    suffix = next(s for s in config.tars if entry.uri.lower().endswith(s.lower()))
    if any(f"{tar.lower()}#" in entry.uri.lower() for tar in config.tars):
        reason = f"{entry.uri!r} holds {suffix}#, as the URI of a member does: rename the tar"
        return file, TarContent(damage=Problem("unsupported", reason))
    if entry.etag is None or entry.num_bytes is None:
        try:
            found = storage.stat(entry.uri)
        except StorageError as error:
            return file, TarContent(damage=Problem(error.kind, str(error)))
        if found is None:
            reason = f"{entry.uri} is not there: list the archive again"
            return file, TarContent(damage=Problem("missing", reason))
        file = FileEntry(entry.uri, found.num_bytes, entry.etag or found.etag)
    return file, read_tar(file, config.suffixes)


def _member_row(
    entry: Entry, file: FileEntry, name: str, content: TarContent, template: Template
) -> ImageRow:
    member = content.members[name]
    of_image = entry._replace(
        uri=f"{file.uri}#{name}",
        key=f"{entry.key}/{name.removeprefix('./').lstrip('/')}",
        etag=file.etag,
        num_bytes=member.num_bytes,
        offset=member.offset,
        problem=member.problem,
    )
    return _row(of_image, template, beside=content.fields_of(name))


def _row(entry: Entry, template: Template, *, beside: Mapping[str, str] = {}) -> ImageRow:
    """The row of an image; the fields `beside` it in a tar fill in what the template lacks."""
    if beside or entry.given:
        fields = {**beside, **template.fields(entry.key), **entry.given}
        category, attributes = to_category(fields)
        pairs = tuple(attributes.items())
    else:
        category, pairs = template.read(entry.key)
    known = entry.uri, category, entry.etag, entry.num_bytes
    return ImageRow(*known, pairs, entry.offset, *(entry.problem or (None, None)))
