"""Manifests: Parquet or CSV files that name images, and the data files of an S3 Inventory.

They are read a chunk at a time. Errors (a column that is missing or occurs twice, a bad value, a
row with a column too many) name the file and, where there is one, the row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote_plus

import pyarrow as pa

from mrkd import storage
from mrkd.config import ArchiveConfig
from mrkd.errors import ConfigError, StorageError
from mrkd.nights.archive.listing import Entry
from mrkd.nights.archive.manifest_files import DataFile, batches
from mrkd.nights.archive.s3_inventory import data_files, is_own_column
from mrkd.nights.archive.tar_index import Problem
from mrkd.nights.archive.tar_read import split_member
from mrkd.storage import schema

_NO_CAST = (pa.ArrowInvalid, pa.ArrowNotImplementedError)
"""What pyarrow raises for values that cannot be cast to the wanted type."""
_ABSOLUTE = re.compile(r"/|[A-Za-z][A-Za-z0-9+.-]*:/")
_NAMES: Mapping[str, tuple[str, ...]] = {
    "uri": ("imageuri", "uri"),
    "bucket": ("bucket",),
    "key": ("key",),
    "etag": ("imageetag", "etag"),
    "size": ("imagebytes", "size"),
    "category": ("category",),
    "offset": ("offset",),
    "kind": ("errorkind",),
    "message": ("errormessage",),
    "attributes": ("attributes",),
    "latest": ("islatest",),
    "deleted": ("isdeletemarker",),
}
"""What a column is used for, by its name in lower case without underscores."""


def _columns(columns: pa.Schema, file: str) -> tuple[dict[str, int], dict[str, int]]:
    """Indices of a file's columns, by use, and of its attributes, by name.

    Raises:
        ConfigError: the columns do not say which images are meant.
    """
    names = columns.names
    plain = [name.lower().replace("_", "") for name in names]
    used = {
        use: plain.index(alias)
        for use, aliases in _NAMES.items()
        for alias in reversed(aliases)
        if alias in plain
    }
    if "uri" not in used and not {"bucket", "key"} <= used.keys():
        found = ", ".join(" ".join(name.split()) for name in names)  # a name may hold line ends
        raise ConfigError(
            f"archive.manifest {file} has the columns {found}: it needs image_uri, "
            "or bucket and key; of an S3 Inventory name the manifest.json"
        )
    if "uri" in used:  # then these are attributes like any other
        used = {k: v for k, v in used.items() if k not in ("bucket", "key", "latest", "deleted")}
    if "attributes" in used and not pa.types.is_map(columns.field(used["attributes"]).type):
        del used["attributes"]  # it is one of them
    taken = set(used.values())
    rest = {name: at for at, name in enumerate(names) if at not in taken}
    if "uri" not in used:
        rest = {name: at for name, at in rest.items() if not is_own_column(name)}
    return used, rest


def manifest_entries(config: ArchiveConfig) -> Iterator[Entry]:
    """The images and tars that the manifest names, in its order, repetitions included.

    A URI may be relative to `config.uri`, or else to the manifest's folder. Keys for the template
    are those below `config.uri`; else relative URIs as they are, and whole ones. Of an inventory
    only files with a suffix of the archive's count, below `config.uri` where there is one.

    Raises:
        ConfigError: the manifest is not there, has no rows, lacks a column or has a bad row.
        StorageError: it cannot be read.
    """
    uri, num_rows = storage.join(config.manifest), 0
    files = data_files(uri) if uri.lower().endswith(".json") else iter([DataFile(uri)])
    for file in files:
        reader = _ManifestReader(file, config)
        for batch in batches(file):
            num_rows += batch.num_rows
            yield from reader.entries(batch)
    if not num_rows:
        raise ConfigError(f"archive.manifest {uri} has no rows: list the archive again")


class _ManifestReader:
    """Turns the rows of one file into entries."""

    def __init__(self, file: DataFile, config: ArchiveConfig) -> None:
        self._file, self._config = file, config
        self._base = storage.join(config.uri or config.manifest.rpartition("/")[0] or ".")
        self._root = f"{self._base.rstrip('/')}/" if config.uri else ""
        self._suffixes = tuple(s.lower() for s in (*config.suffixes, *config.tars))
        self._tars = tuple(f"{suffix.lower()}#" for suffix in config.tars)
        # As an editor counts lines: a CSV's header is the first.
        is_csv = not file.uri.lower().endswith(".parquet")
        self._row = 1 if is_csv and file.columns is None else 0
        self._columns: tuple[dict[str, int], dict[str, int]] | None = None

    def entries(self, batch: pa.RecordBatch) -> Iterator[Entry]:
        """Those of the next rows."""
        if self._columns is None:
            self._columns = _columns(batch.schema, self._file.uri)
        (used, attributes), first = self._columns, self._row + 1
        self._row += batch.num_rows
        values = {use: self._values(batch, use, at, first) for use, at in used.items()}
        more = {name: _texts(batch.column(at)) for name, at in attributes.items()}
        for n in range(batch.num_rows):
            try:
                row = {use: column[n] for use, column in values.items()}
                given = {name: t for name, column in more.items() if (t := column[n]) is not None}
                entry = self._entry(row, given)
            except (ValueError, StorageError) as error:
                raise ConfigError(self._at(first + n, str(error))) from error
            if entry is not None:
                yield entry

    def _entry(self, row: Mapping[str, Any], given: dict[str, str]) -> Entry | None:
        """The entry of a row; None for an object that is not an image.

        Raises:
            ValueError: a value is not valid; (StorageError) its URI is not.
        """
        given |= {name: text for name, text in row.get("attributes") or () if text is not None}
        if category := row.get("category"):
            given["category"] = category
        if "uri" in row:
            uri = self._canonical(row["uri"], is_member=row.get("offset") is not None)
            key = self._key(uri, below_base=not _ABSOLUTE.match(row["uri"]))
        else:
            uri = self._object(row)
            if not uri.startswith(self._root) or not uri.lower().endswith(self._suffixes):
                return None
            key = self._key(uri)
        etag, offset, kind = row.get("etag"), row.get("offset"), row.get("kind")
        if kind is not None and kind not in schema.ERROR_KINDS:
            raise ValueError(f"error_kind is {kind!r}, it may be {', '.join(schema.ERROR_KINDS)}")
        if offset is not None and row.get("size") is None:
            raise ValueError("a tar's member has no size")
        reason = (row.get("message") or "").strip()
        reason = reason or "so its manifest says: list the archive again"
        problem = Problem(kind, reason) if kind is not None else None
        return Entry(
            uri, key, etag.strip('"') if etag else None, row.get("size"), given, offset, problem
        )

    def _canonical(self, text: str | None, *, is_member: bool) -> str:
        if not text:
            raise ValueError("it has no URI")
        # A member's name is not a path: made canonical, `x.tar#../y` would leave it.
        lower = text.lower()
        member = is_member or any(tar in lower for tar in self._tars)
        file, name = split_member(text, self._config.tars) if member else (text, "")
        relative = not _ABSOLUTE.match(file)
        file = storage.join(storage.join(self._base, file) if relative else file)
        return f"{file}#{name}" if name else file

    def _object(self, row: Mapping[str, Any]) -> str:
        """The URI of an inventory's row; empty for one that is deleted or was overwritten."""
        deleted, latest = ((row.get(use) or "").lower() for use in ("deleted", "latest"))
        if deleted == "true" or latest == "false":
            return ""
        bucket, key = row["bucket"], row["key"]
        if not bucket or not key:
            raise ValueError("it has no bucket or no key")
        if self._file.encoded:
            # In them a plus means a space, a plus itself is %2B.
            key = unquote_plus(key, errors="strict")
        uri = f"s3://{bucket}/{key}"
        storage.join(uri)  # refuses what is not a bucket; a key may end with a slash
        return uri

    def _key(self, uri: str, *, below_base: bool = False) -> str:
        """What the template reads: below `config.uri`, else below the bucket or the root.

        A relative URI is read as it was written, below the manifest's folder.
        """
        if below_base and not self._root:
            return _with_slash(uri.removeprefix(f"{self._base.rstrip('/')}/"), self._tars)
        if self._root:
            # A tar's members have its name as a folder, as when it is listed.
            return _with_slash(uri.removeprefix(self._root), self._tars)
        whole = uri.removeprefix("file:///")
        if uri.startswith("s3://"):
            whole = uri.removeprefix("s3://").partition("/")[2]
        return _with_slash(whole, self._tars)

    def _values(self, batch: pa.RecordBatch, use: str, at: int, first: int) -> list[Any]:
        """A column's values as what they are used for: whole numbers, pairs or text."""
        column = batch.column(at)
        if use == "attributes":
            try:
                pairs: list[Any] = column.cast(schema.ATTRIBUTES).to_pylist()
            except _NO_CAST as error:
                what = f"attributes are of {column.type}, not of texts by name"
                raise ConfigError(self._at(first, what)) from error
            return pairs
        if use not in ("size", "offset"):
            return _texts(column)
        try:
            numbers: list[Any] = column.cast(pa.int64()).to_pylist()
        except _NO_CAST:
            numbers = [self._number(v, use, first + n) for n, v in enumerate(column.to_pylist())]
        for n, number in enumerate(numbers):
            if number is not None and number < 0:
                raise ConfigError(self._at(first + n, f"{use} is {number}"))
        return numbers

    def _number(self, value: object, use: str, row: int) -> int | None:
        text = "" if value is None else str(value).strip()
        if not text:
            return None
        if not text.isdecimal() or len(text) > 18:
            raise ConfigError(self._at(row, f"{use} is {text!r}, which is not a whole number"))
        return int(text)

    def _at(self, row: int, what: str) -> str:
        return f"archive.manifest {self._file.uri}, row {row:,}: {what}: correct it or leave it out"


def _with_slash(key: str, tars: tuple[str, ...]) -> str:
    lower = key.lower()
    for tar in tars:
        if (at := lower.find(tar)) >= 0:
            end = at + len(tar)
            return f"{key[: end - 1]}/{key[end:].removeprefix('./').lstrip('/')}"
    return key


def _texts(column: pa.Array) -> list[str | None]:
    """Values of any type as text."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        texts: list[str | None] = column.cast(pa.string()).to_pylist()
    except _NO_CAST:
        texts = [None if value is None else str(value) for value in column.to_pylist()]
    return texts
