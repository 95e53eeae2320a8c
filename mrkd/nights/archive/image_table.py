"""The rows of an archive, gathered in chunks and sorted column by column, as there are millions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mrkd.errors import ConfigError
from mrkd.storage import schema

_CHUNK_ROWS = 16_384
_SORTED_ROWS = 2**20


class ImageRow(NamedTuple):
    """One row of `IMAGES`; `attributes` as the pairs of an Arrow map."""

    image_uri: str
    category: str
    image_etag: str | None
    image_bytes: int | None
    attributes: Sequence[tuple[str, str]]
    offset: int | None = None
    error_kind: str | None = None
    error_message: str | None = None


IMAGES = pa.schema([schema.PLAN.field(name) for name in ImageRow._fields])
"""The columns of a plan that the archive alone decides."""


def to_batches(rows: Iterable[ImageRow]) -> Iterator[pa.RecordBatch]:
    """The rows as Arrow, a chunk at a time: as Python objects a million would take a gigabyte."""
    rest = iter(rows)
    while chunk := list(islice(rest, _CHUNK_ROWS)):
        columns = zip(*chunk, strict=True)
        arrays = [pa.array(c, field.type) for c, field in zip(columns, IMAGES, strict=True)]
        yield pa.record_batch(arrays, schema=IMAGES)


def sort_images(batches: list[pa.RecordBatch]) -> pa.Table:
    """All rows by category, then URI. Empties `batches`, so that no column is held twice."""
    table = pa.Table.from_batches(batches, schema=IMAGES)
    batches.clear()
    keys = [("category", "ascending"), ("image_uri", "ascending")]
    order = pc.sort_indices(table, sort_keys=keys)
    columns = {name: table[name] for name in IMAGES.names}
    del table
    # Column by column, and none is held elsewhere: while one is put in order, only it is doubled.
    sorted_columns = {f.name: _take(columns.pop(f.name), order) for f in IMAGES}
    pa.default_memory_pool().release_unused()
    return pa.table(sorted_columns, schema=IMAGES)


def _take(column: pa.ChunkedArray, order: pa.Array) -> pa.ChunkedArray:
    """The column in that order, in parts, as one of strings with 32-bit offsets ends at 2 GiB."""
    kind = column.type
    if kind == pa.string() and column.nbytes > 2**30:
        column = column.cast(pa.large_string())
    whole = column.combine_chunks()
    del column
    parts = range(0, len(order), _SORTED_ROWS)
    taken = (whole.take(order.slice(start, _SORTED_ROWS)).cast(kind) for start in parts)
    return pa.chunked_array(taken, kind)


def merge_equal(table: pa.Table, *, name: str) -> pa.Table:
    """The table (`IMAGES`) without the repetitions of rows that the manifest `name` has twice.

    Raises:
        ConfigError: two rows of one URI differ.
    """
    held, repeated = _shared(table["image_uri"])
    for start in range(0, len(held), _CHUNK_ROWS):
        pairs = (held[start : start + _CHUNK_ROWS], repeated[start : start + _CHUNK_ROWS])
        first, other = (table.take(pa.array(positions)) for positions in pairs)
        if not first.equals(other):
            _refuse(first, other, name)
    if not len(repeated):
        return table
    mask = np.ones(table.num_rows, bool)
    mask[repeated] = False
    return table.filter(pa.array(mask))


def _refuse(first: pa.Table, other: pa.Table, name: str) -> NoReturn:
    """Raises a ConfigError that names the first two rows that differ."""
    for here, there in zip(first.to_pylist(), other.to_pylist(), strict=True):
        for column, value in here.items():
            if value != there[column]:
                raise ConfigError(
                    f"archive.manifest {name} has {here['image_uri']!r} twice, with {column} "
                    f"{value!r} and {there[column]!r}: leave one of them in it"
                )
    raise AssertionError("equal rows, unequal tables")


def refuse_shared(table: pa.Table) -> pa.Table:
    """The table with one row, an error, for each URI that is a file's and a member's too."""
    held, repeated = _shared(table["image_uri"])
    if not len(repeated):
        return table
    mask = np.ones(table.num_rows, bool)
    mask[repeated] = mask[held] = False
    rows = table.take(pa.array(np.setdiff1d(held, repeated))).to_pylist()
    for row in rows:
        what = f"{row['image_uri']!r} is a file and the member of a tar: rename one of them"
        row |= {"offset": None, "error_kind": "unsupported", "error_message": what}
    errors = pa.Table.from_pylist(rows, schema=IMAGES)
    kept = pa.concat_tables([table.filter(pa.array(mask)), errors])
    return sort_images(kept.to_batches())


def _shared(uris: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of rows that have one URI, in pairs: of each group neighbours, in their order."""
    if pc.count_distinct(uris).as_py() == len(uris):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    # An array's sort is stable, so that of equal rows the first one is held.
    order = pc.sort_indices(uris).to_numpy().astype(np.int64)
    in_order = uris.take(pa.array(order))
    same = pc.equal(in_order.slice(1), in_order.slice(0, len(uris) - 1)).to_numpy()
    return order[:-1][same], order[1:][same]
