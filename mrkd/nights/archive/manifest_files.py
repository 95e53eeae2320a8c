"""Parquet and CSV files of a manifest, read a chunk at a time from any storage."""

from __future__ import annotations

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
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
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
    for block in _row_blocks(found):
        is_header = names is None
        if names is None:
            header = block.partition(b"\n")[0].decode("utf-8-sig")
            delimiter = max(",;\t", key=header.count)
            names = tuple(name.strip() for name in next(csv.reader([header], delimiter=delimiter)))
        if is_header and not block.partition(b"\n")[2].strip():
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
                    skip_rows=int(is_header),
                ),
                parse_options=pa_csv.ParseOptions(newlines_in_values=True, delimiter=delimiter),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
        except pa.ArrowInvalid as error:
            raise pa.ArrowInvalid(_renumbered(str(error), num_rows)) from error
        num_rows += table.num_rows + is_header
        yield from table.to_batches(_CHUNK_ROWS)
    if names is None:
        raise pa.ArrowInvalid("Empty CSV file")


def _renumbered(message: str, before: int) -> str:
    """A message of pyarrow's on a block, with the row's number in the file."""
    return _ROW.sub(lambda match: f"Row #{int(match[1]) + before}", message)


def _row_blocks(found: FileEntry) -> Iterator[bytes]:
    """The bytes of a CSV file in blocks of whole rows.

    Raises:
        ConfigError: a row is longer than any row may be.
    """
    with io.BufferedReader(RangeFile(found), _CSV_BYTES) as raw:
        is_packed = found.uri.lower().endswith(".gz")
        stream = gzip.GzipFile(fileobj=raw) if is_packed else raw
        rest = b""
        while chunk := stream.read(_CSV_BYTES):
            rest += chunk
            end = _end_of_rows(rest)
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


def _end_of_rows(data: bytes) -> int:
    """Where the last whole row ends: behind the last newline that no quotation marks hold."""
    end = data.rfind(b"\n") + 1
    quotes = data.count(b'"', 0, end)
    while end and quotes % 2:
        before = data.rfind(b"\n", 0, end - 1) + 1
        quotes -= data.count(b'"', before, end)
        end = before
    return end
