"""An anomaly map as the bytes of a row, and back; reading needs numpy alone."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

MapType = Literal["float16", "float32", "uint8", "none"]
MAP_COLUMNS = ("anomaly_map", "map_height", "map_width", "map_dtype", "map_min", "map_max")


_DTYPES = {"float16": "<f2", "float32": "<f4", "uint8": "u1"}
_DTYPES |= {"float16_packed": "<f2", "uint8_packed": "u1"}
"""How a `map_dtype` stores a value, little-endian."""
_WRITTEN = {"float16": "float16_packed", "float32": "float32", "uint8": "uint8_packed"}
_CODES = {1: ("u1", "i1"), 2: ("<u2", "<i2")}


class MapRow(Protocol):
    """A row by column name: a dict of pyarrow or DuckDB, a pandas Series, ..."""

    def __getitem__(self, key: str, /) -> Any:
        """The value of a column."""


def encode_map(anomaly_map: NDArray[np.float32], dtype: MapType) -> dict[str, Any]:
    """The map_* columns of a row.

    float16 and uint8 are packed, which loses nothing: of maps of solar cells, 64 x 64, Parquet then
    keeps 5.9 KB instead of 7.5 of float16, and 1.8 instead of 3.8 of uint8.

    Args:
        anomaly_map: float32 `[H, W]`, finite.
        dtype: type of a stored value; `uint8` rounds to 255 steps between the map's ends, float16
            to 11 bits, at most 65504; `none` stores no map.

    Raises:
        ValueError: the map has another shape, is empty or has a value that is not finite.
    """
    if dtype == "none":
        return dict.fromkeys(MAP_COLUMNS)
    if anomaly_map.ndim != 2 or not anomaly_map.size or not np.isfinite(anomaly_map).all():
        raise ValueError(f"a map is [H, W] of finite numbers, found shape {anomaly_map.shape}")
    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    if dtype == "uint8":
        # The quotient first: 255 over the smallest float32 is more than a float holds.
        share = (anomaly_map.astype(np.float64) - low) / ((high - low) or 1.0)
        stored = np.rint(255 * share).astype("u1")
    else:
        limit = np.finfo(dtype).max
        stored = np.clip(anomaly_map, -limit, limit).astype(_DTYPES[dtype])
    height, width = anomaly_map.shape
    written = _WRITTEN[dtype]
    data = _pack(stored) if written.endswith("_packed") else stored.tobytes()
    values = (data, height, width, written, low, high)
    return dict(zip(MAP_COLUMNS, values, strict=True))


def read_map(row: MapRow) -> NDArray[np.float32] | None:
    """The anomaly map of a stored row, float32 `[H, W]`; None where none is stored.

    Args:
        row: a row by column name, as pyarrow's `to_pylist`, pandas or DuckDB give it.

    Raises:
        ValueError: the bytes do not fit the other map columns.
    """
    data = row["anomaly_map"]
    if not isinstance(data, bytes | bytearray | memoryview):  # None, or a NaN or NA of pandas
        return None
    shape, named = (int(row["map_height"]), int(row["map_width"])), str(row["map_dtype"])
    if named not in _DTYPES:
        raise ValueError(f"map_dtype is {named!r}, allowed: {', '.join(_DTYPES)}")
    dtype, raw = _DTYPES[named], np.frombuffer(data, np.uint8)
    found = raw.size / np.dtype(dtype).itemsize
    if found != shape[0] * shape[1]:
        raise ValueError(f"the map has {found:g} values, not {shape[0]} x {shape[1]}")
    packed = named.endswith("_packed")
    stored = _unpack(raw, shape, dtype) if packed else raw.view(dtype).reshape(shape)
    values = stored.astype(np.float32)
    if dtype != "u1":
        return values
    low, high = np.float32(row["map_min"]), np.float32(row["map_max"])
    return np.asarray(low + values * ((high - low) / np.float32(255)), np.float32)


def _pack(stored: NDArray[Any]) -> bytes:
    """A smooth map as bytes that compress, as many as before.

    The bits of each value are taken as an unsigned number. Each row gives way to its difference
    from the row above, then each column to that from the column before, both modulo 2^bits; then
    a difference d becomes 2d, a negative one -2d - 1; last come the low bytes of all, then the high
    ones.
    """
    unsigned, signed = _CODES[stored.itemsize]
    codes = stored.view(unsigned)
    for axis in (0, 1):
        codes = np.diff(codes, axis=axis, prepend=codes.dtype.type(0))
    steps = codes.view(signed)
    folded = ((steps << 1) ^ (steps >> (8 * stored.itemsize - 1))).astype(signed)
    return folded.reshape(-1, 1).view("u1").T.tobytes()


def _unpack(data: NDArray[np.uint8], shape: tuple[int, int], dtype: str) -> NDArray[Any]:
    """What `_pack` was given."""
    unsigned, _ = _CODES[np.dtype(dtype).itemsize]
    folded = np.ascontiguousarray(data.reshape(-1, shape[0] * shape[1]).T).view(unsigned)
    codes = ((folded >> 1) ^ (0 - (folded & 1))).reshape(shape)
    for axis in (0, 1):
        codes = np.cumsum(codes, axis=axis, dtype=unsigned)
    return codes.view(dtype)
