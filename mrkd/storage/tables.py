"""Small tables that a person wrote, as any spreadsheet saves them: CSV text to rows."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

from mrkd import storage
from mrkd.errors import ConfigError, StorageError

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DELIMITERS = ",;\t"


class Row(NamedTuple):
    """One line of a table.

    Attributes:
        where: file and line, for errors.
        cells: text of each column by its name in lower case, without spaces around it.
    """

    where: str
    cells: dict[str, str]


def read_table(uri: str, columns: Sequence[str | tuple[str, ...]]) -> list[Row]:
    """The rows of a table with these columns at least; lines without any text are left out.

    The text is UTF-8, or UTF-16 with its mark; commas, semicolons or tabs separate the columns.

    Args:
        uri: URI of the file.
        columns: columns that the table must have, in lower case; of a tuple of names one, which the
            rows have under the first.

    Raises:
        ConfigError: the file does not exist, is not such a table, or lacks a column.
        StorageError: it cannot be read.
    """
    text = read_text(uri)
    # The first of the most frequent, so that the only column of a file needs no separator.
    header = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        wanted = [(name,) if isinstance(name, str) else name for name in columns]
        for first, *others in wanted:
            there = [name for name in (first, *others) if name in names]
            if not there:
                raise ConfigError(
                    f"{uri} lacks the column {first!r}: its first line must name "
                    f"{', '.join(name for name, *_ in wanted)}, found "
                    f"{', '.join(filter(None, names)) or 'nothing'}"
                )
            names[names.index(there[0])] = first
        rows = []
        for cells in reader:
            padded = [*(cell.strip() for cell in cells), *[""] * (len(names) - len(cells))]
            if any(padded):
                row = dict(zip(names, padded, strict=False))
                rows.append(Row(f"{uri} line {reader.line_num}", row))
    except csv.Error as error:
        raise ConfigError(f"{uri} line {reader.line_num} is not CSV ({error})") from error
    return rows


def read_text(uri: str) -> str:
    """The text of a file: UTF-8 with or without its mark, or UTF-16 with it.

    Raises:
        ConfigError: the file does not exist, or is in another encoding.
        StorageError: it cannot be read.
    """
    try:
        data = storage.read(uri)
    except StorageError as error:
        if error.kind != "missing":
            raise
        raise ConfigError(f"the file {uri!r} does not exist: correct the path") from error
    encoding = "utf-16" if data.startswith(_UTF_16) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise ConfigError(
            f"{uri} is not {name} ({error.reason}, byte {error.start:,}): save it as UTF-8"
        ) from error
    if "\0" in text:
        raise ConfigError(f"{uri} holds bytes of 0, which no text does: save it as UTF-8")
    return text
