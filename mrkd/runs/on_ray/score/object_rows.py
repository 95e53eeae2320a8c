"""One Python object as one Arrow row, to travel through Ray Data.

A row cannot be cut and, at `batch_size=1`, is never merged: one object remains one row from end to
end. It is pickled as Ray would, but the memory of arrays and tables is kept beside the pickle, so
that a reader sees it in the object store without a copy. None of it is ever stored.
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
    """The value of a table of one row; its arrays share the row's memory, read-only if Ray's."""
    assert row.num_rows == 1, f"{row.num_rows} rows where one shard was put in"
    pickled, *buffers = (part.as_buffer() for part in row["parts"][0].values)
    return pickle.loads(pickled, buffers=buffers)


def _binary(data: bytes | memoryview) -> pa.LargeBinaryArray:
    """An array of one value, not copied.

    `pa.array` would copy a memoryview and never let go of it (pyarrow 26.0).
    """
    ends = pa.py_buffer(np.array([0, len(data)], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, pa.py_buffer(data)])
