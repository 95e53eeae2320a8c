"""Reader of small tables written by hand: splits, labels, verdicts.

They come from editors and spreadsheets: in UTF-8 with or without a mark, or in UTF-16 with one;
with commas, semicolons or tabs between the columns; with spaces around names and values; with
Excel's line `sep=;`. Whatever else a file holds is refused with its name and line.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mrkd import storage
from mrkd.config.text import decoded
from mrkd.errors import ConfigError, StorageError

_SEPARATORS = ",;\t"
_MOST_SHOWN = 20


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Args:
        where: file and line, for messages.
        line: number of its last line.
        values: the value of each column, without spaces around; empty where the row is short.
    """

    where: str
    line: int
    values: Mapping[str, str]


def read_text(uri: str) -> str:
    """The text of a file.

    Raises:
        ConfigError: it does not exist, or is not text.
        StorageError: it cannot be read.
    """
    try:
        data = storage.read(uri)
    except StorageError as error:
        if error.kind != "missing":
            raise
        if storage.exists(uri):
            raise ConfigError(str(error)) from error  # a folder
        raise ConfigError(f"the file {uri!r} does not exist: correct the path") from error
    return decoded(data, f"{uri!r}", utf_16=True)


def read_table(uri: str, *accepted: Sequence[str]) -> Iterator[TableRow]:
    """The rows below the line that names the columns; empty ones are passed over.

    Args:
        uri: the file.
        accepted: sets of columns of which one must be there, the best first; others may be too.

    Raises:
        ConfigError: the file does not exist or is not such a table.
        StorageError: it cannot be read.
    """
    source = io.StringIO(read_text(uri), newline="")
    header, above = "", 0
    for header in source:
        above += 1
        if header.strip() and not header.lstrip('"').lower().startswith("sep="):
            break
    separator = max(
        _SEPARATORS, key=lambda one: max(len({*_names(header, one)} & {*own}) for own in accepted)
    )
    names = _names(header, separator)
    columns = next((own for own in accepted if {*own} <= {*names}), None)
    if columns is None:
        missing = next(name for name in accepted[0] if name not in names)
        found = [_short(name) for name in names if name][:_MOST_SHOWN]
        expected = f"expected {', '.join(accepted[0])}"
        raise ConfigError(
            f"{uri!r} lacks the column {missing!r}: its first line "
            + (
                f"has the columns {found}: {expected}"
                if found
                else f"names no column: {expected}, found nothing"
            )
        )
    for name in columns:
        if names.count(name) > 1:
            raise ConfigError(f"{uri!r} line {above} names the column {name!r} twice: name it once")
    reader = csv.reader(source, delimiter=separator, strict=True, skipinitialspace=True)
    try:
        for fields in reader:
            line = above + reader.line_num
            values = [field.strip() for field in fields]
            if not any(values):
                continue
            if any(values[len(names) :]):
                raise ConfigError(
                    f"{uri!r} line {line} has {len(values)} fields, and its first line names "
                    f"{len(names)}: put a field that holds {separator!r} in double quotes"
                )
            values += [""] * (len(names) - len(values))
            own = {name: values[names.index(name)] for name in columns}
            yield TableRow(f"{uri!r} line {line}", line, own)
    except csv.Error as error:
        raise ConfigError(
            f"{uri!r} line {above + reader.line_num} is not CSV ({error}): close each double "
            "quote, and keep a field below 128 KiB"
        ) from error


def _names(header: str, separator: str) -> list[str]:
    return [name.strip().strip('"').strip().lower() for name in header.split(separator)]


def _short(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN * 2 else f"{text[: _MOST_SHOWN * 2]}..."


class FirstLines:
    """Lines on which names were seen first: a name on two lines is refused.

    Args:
        uri: the file.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._lines: dict[str, int] = {}

    def add(self, name: str, line: int) -> None:
        """Takes a name.

        Raises:
            ConfigError: an earlier line has it.
        """
        first = self._lines.setdefault(name, line)
        if first != line:
            raise ConfigError(
                f"{self._uri!r} names {name!r} twice, in lines {first} and {line}: keep one"
            )
