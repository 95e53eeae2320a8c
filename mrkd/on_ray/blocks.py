"""One Python object as one Arrow row, for the way through Ray Data.

A row cannot be cut and, at `batch_size=1`, never meets another: what is one object stays one from
end to end. Pickled as Ray would, but the memory of arrays and tables is kept beside the pickle, so
that a reader sees it where it lies in the object store. Nothing of it is ever stored.
"""

from __future__ import annotations

import pickle
from typing import Any

import pyarrow as pa

_SCHEMA = pa.schema([("pickled", pa.large_binary()), ("buffers", pa.list_(pa.large_binary()))])


def pack(value: object) -> pa.Table:
    """A table of one row that holds `value`."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return pa.table([[pickled], [[buffer.raw() for buffer in buffers]]], schema=_SCHEMA)


def unpack(row: pa.Table) -> Any:
    """The value of a table of one row; its arrays lie in the row, read-only where that is Ray's."""
    assert row.num_rows == 1, f"{row.num_rows} rows where one shard was put in"
    pickled, buffers = row["pickled"][0], row["buffers"][0].values
    return pickle.loads(pickled.as_buffer(), buffers=[buffer.as_buffer() for buffer in buffers])
