"""Parquet and CSV files of a manifest, read a chunk at a time from any storage."""

from __future__ import annotations

import csv
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
_HEADER_BYTES = 2**16


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
    except (pa.ArrowException, OSError) as error:
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
        # Closed also where a row is refused: one that is open when Python ends may abort it.
        with _open_csv(found, file.columns) as rows:
            yield from rows
    else:
        raise ConfigError(
            f"archive.manifest {file.uri} is of no kind that is read: name a .parquet, .csv, "
            ".csv.gz file, or an inventory's manifest.json"
        )


def _open_csv(found: FileEntry, given: tuple[str, ...] | None) -> pa_csv.CSVStreamingReader:
    """A reader whose columns are text; an empty cell is null.

    Args:
        found: entry of the file.
        given: names of the columns; None: the file's first line has them.
    """
    delimiter, names = ",", given
    if names is None:
        header = _first_line(found).decode("utf-8-sig")
        delimiter = max(",;\t", key=header.count)
        cells = next(csv.reader([header], delimiter=delimiter), [])
        names = tuple(name.strip() for name in cells)
    return pa_csv.open_csv(
        _stream(found),
        read_options=pa_csv.ReadOptions(
            use_threads=False,
            block_size=_CSV_BYTES,
            column_names=names or None,
            skip_rows=0 if given else 1,
        ),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True, delimiter=delimiter),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
        ),
    )


def _stream(found: FileEntry) -> pa.NativeFile:
    source = pa.PythonFile(RangeFile(found), mode="r")
    return pa.CompressedInputStream(source, "gzip") if found.uri.lower().endswith(".gz") else source


def _first_line(found: FileEntry) -> bytes:
    with _stream(found) as stream:
        return bytes(stream.read(_HEADER_BYTES)).partition(b"\n")[0].removesuffix(b"\r")
