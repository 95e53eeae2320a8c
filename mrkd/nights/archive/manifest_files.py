"""Parquet and CSV files of a manifest, read a chunk at a time from any storage."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from mrkd import storage
from mrkd.errors import ConfigError
from mrkd.nights.archive.range_file import RangeFile
from mrkd.storage import FileEntry

_CHUNK_ROWS = 16_384
_CSV_BYTES = 2**20
_LONGEST_ROW = 2**24
_ROW = re.compile(r"Row #(\d+)")
_DELIMITERS = b",;\t"
_FIRST_LINE = re.compile(rb'(?:"(?:[^"]|"")*+"|[^"\r\n])*+')


def _rows_of(delimiter: bytes, end: bytes) -> re.Pattern[bytes]:
    """Whole rows. A quotation mark quotes only where it begins a cell, as pyarrow has it."""
    other = b"[^" + delimiter + end + b"]"
    cell = b'(?:"(?:[^"]++|"")*+"' + other + b'*+|(?!")' + other + b"*+)"
    row = cell + b"(?:" + delimiter + cell + b")*+" + end
    return re.compile(b"(?:" + row + b")*+")


class DataFile(NamedTuple):
    """One file of rows.

    Attributes:
        uri: URI of the file; its suffix gives its format.
        columns: their names, for a CSV file that has no header.
        encoded: whether keys are percent-encoded.
    """

    uri: str
    columns: tuple[str, ...] | None = None
    encoded: bool = False


def batches(file: DataFile) -> Iterator[pa.RecordBatch]:
    """The rows of a file, a chunk at a time, in its own columns; of a CSV all are text.

    Raises:
        ConfigError: it is not there, of another kind, or damaged; of a CSV the bad row is named.
        StorageError: it cannot be read.
    """
    try:
        for batch in _read(file):
            batch.validate(full=True)  # else text that is not UTF-8 is met much later
            yield batch
    except (pa.ArrowException, csv.Error, OSError, EOFError, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"archive.manifest {file.uri} cannot be read ({reason}): make it again"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"archive.manifest {file.uri} is not UTF-8 ({error.reason}, byte {error.start:,} of a "
            "header or text): save it as UTF-8"
        ) from error


def _read(file: DataFile) -> Iterator[pa.RecordBatch]:
    found = storage.stat(file.uri)
    if found is None:
        raise ConfigError(f"archive.manifest {file.uri} is not there: check the path")
    lower = file.uri.lower()
    if lower.endswith(".parquet"):
        # Without threads: a RangeFile is for one at a time.
        with pq.ParquetFile(pa.PythonFile(RangeFile(found), mode="r")) as parquet:
            yield from parquet.iter_batches(_CHUNK_ROWS, use_threads=False)
    elif lower.endswith((".csv", ".csv.gz")):
        yield from _csv_batches(found, file.columns)
    else:
        raise ConfigError(
            f"archive.manifest {file.uri} is of no kind that is read: name a .parquet, .csv, "
            ".csv.gz file, or an inventory's manifest.json"
        )


def _csv_batches(found: FileEntry, given: tuple[str, ...] | None) -> Iterator[pa.RecordBatch]:
    """The rows of a CSV file, all of whose columns are text; an empty cell is null.

    pyarrow parses blocks of whole rows in memory. Its own streams read ahead in a thread, which
    aborts the process if it asks a Python file for more while Python ends.

    Args:
        found: entry of the file.
        given: names of the columns; None: the file's first line has them.
    """
    delimiter, names, num_rows = ",", given, 0
    for block in _row_blocks(found, has_header=given is None):
        is_header = names is None
        if names is None:
            header, block = _header(block)
            if not header:
                continue
            delimiter = _delimiter(header)
            text = header.decode()
            names = tuple(name.strip() for name in next(csv.reader([text], delimiter=delimiter)))
        if is_header and not block.strip(b"\r\n"):
            num_rows += 1
            yield pa.RecordBatch.from_pylist([], pa.schema([(name, pa.string()) for name in names]))
            continue
        try:
            table = pa_csv.read_csv(
                pa.BufferReader(block),
                read_options=pa_csv.ReadOptions(
                    use_threads=False,
                    block_size=len(block) + 1,
                    column_names=names,
                ),
                parse_options=pa_csv.ParseOptions(newlines_in_values=True, delimiter=delimiter),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
        except pa.ArrowInvalid as error:
            raise pa.ArrowInvalid(_renumbered(str(error), num_rows + is_header)) from error
        num_rows += table.num_rows + is_header
        yield from table.to_batches(_CHUNK_ROWS)
    if names is None:
        raise pa.ArrowInvalid("Empty CSV file")


def _renumbered(message: str, before: int) -> str:
    """A message of pyarrow's on a block, with the row's number in the file."""
    return _ROW.sub(lambda match: f"Row #{int(match[1]) + before}", message)


def _header(data: bytes) -> tuple[bytes, bytes]:
    """The first line that is not empty, whose quoted names may hold line ends, and the rest."""
    data = data.removeprefix(codecs.BOM_UTF8).lstrip(b"\r\n")
    match = _FIRST_LINE.match(data)
    end = match.end() if match else 0
    if data[end : end + 1] == b'"':  # one that does not close is a character as any other
        end = len(re.split(rb"[\r\n]", data, maxsplit=1)[0])
    length = 2 if data[end : end + 2] == b"\r\n" else 1
    return data[:end], data[end + length :]


def _delimiter(header: bytes) -> str:
    return chr(max(_DELIMITERS, key=header.count))


def _row_blocks(found: FileEntry, *, has_header: bool) -> Iterator[bytes]:
    """The bytes of a CSV file in blocks of whole rows; they end as its first line does.

    Raises:
        ConfigError: a row is longer than any row may be.
    """
    with io.BufferedReader(RangeFile(found), _CSV_BYTES) as raw:
        is_packed = found.uri.lower().endswith(".gz")
        stream = gzip.GzipFile(fileobj=raw) if is_packed else raw
        rest, rows = b"", None
        while chunk := stream.read(_CSV_BYTES):
            rest += chunk
            if rows is None:
                last = b"\r" if b"\r" in rest and b"\n" not in rest else b"\n"
                delimiter = _delimiter(_header(rest)[0]) if has_header else ","
                rows = _rows_of(delimiter.encode(), last)
            end = _end_of_rows(rest, rows, last)
            if end:
                yield rest[:end]
                rest = rest[end:]
            elif len(rest) > _LONGEST_ROW:
                raise ConfigError(
                    f"archive.manifest {found.uri} has a row of more than {_LONGEST_ROW:,} bytes: "
                    "a quotation mark that does not close makes such a one"
                )
        if rest:
            yield rest


def _end_of_rows(data: bytes, rows: re.Pattern[bytes], last: bytes) -> int:
    """Where the last whole row ends: behind the last line end that no quotation marks hold."""
    if b'"' not in data:
        return data.rfind(last) + 1
    match = rows.match(data)
    return match.end() if match else 0
