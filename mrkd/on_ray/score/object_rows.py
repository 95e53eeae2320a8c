"""One Python object as one Arrow row, for the way through Ray Data.

A row cannot be cut and, at `batch_size=1`, never meets another: what is one object stays one from
end to end. Pickled as Ray would, but the memory of arrays and tables is kept beside the pickle, so
that a reader sees it where it lies in the object store. Nothing of it is ever stored.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pyarrow as pa


def pack(value: object) -> pa.Table:
    """A table of one row that holds `value`: its pickle, then the memory of its arrays."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    values = [_binary(pickled), *(_binary(buffer.raw()) for buffer in buffers)]
    parts = pa.concat_arrays(values)
    return pa.table({"parts": pa.ListArray.from_arrays([0, len(parts)], parts)})


def unpack(row: pa.Table) -> Any:
    """The value of a table of one row; its arrays lie in the row, read-only where that is Ray's."""
    assert row.num_rows == 1, f"{row.num_rows} rows where one shard was put in"
    pickled, *buffers = (part.as_buffer() for part in row["parts"][0].values)
    return pickle.loads(pickled, buffers=buffers)


def _binary(data: bytes | memoryview) -> pa.LargeBinaryArray:
    """An array of one value, not copied.

    `pa.array` would copy a memoryview and never let go of it (pyarrow 26.0).
    """
    ends = pa.py_buffer(np.array([0, len(data)], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, pa.py_buffer(data)])
