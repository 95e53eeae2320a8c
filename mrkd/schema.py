"""Arrow schemas of what mrkd stores in Parquet, their version, and one builder for rows.

The names, types and order of columns stand here and nowhere else. Any reader of Parquet opens the
files; `read_map` is all that it needs beside, and it needs numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mrkd.errors import ArtefactError

SCHEMA_VERSION = 1

ERROR_KINDS: tuple[str, ...] = (
    "missing",
    "forbidden",
    "unreachable",
    "empty",
    "decode",
    "truncated",
    "too_large",
    "unsupported",
    "no_model",
    "changed",
    "internal",
)
"""Why an image has no score."""

MapType = Literal["float16", "float32", "uint8", "none"]


def _field(name: str, kind: pa.DataType, doc: str, *, nullable: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"doc": doc})


ATTRIBUTES = pa.map_(pa.string(), pa.string())

REGION = pa.struct(
    [
        _field("x", pa.int32(), "left edge, original pixels"),
        _field("y", pa.int32(), "upper edge, original pixels"),
        _field("width", pa.int32(), "original pixels"),
        _field("height", pa.int32(), "original pixels"),
        _field("area", pa.int32(), "pixels of the region itself, in original pixels"),
        _field("peak", pa.float32(), "highest anomaly in it"),
        _field("mean", pa.float32(), "mean anomaly in it"),
    ]
)

SCORES = pa.schema(
    [
        _field("image_uri", pa.string(), "as listed; a tar member: URI#member", nullable=False),
        _field("revision", pa.int32(), "number of the plan that holds the row"),
        _field("attributes", ATTRIBUTES, "the other fields of the archive's template"),
        _field("image_etag", pa.string(), "ETag of the bytes that were scored"),
        _field("image_bytes", pa.int64(), "how many bytes were scored"),
        _field("image_height", pa.int32(), "original pixels, after EXIF rotation"),
        _field("image_width", pa.int32(), "original pixels, after EXIF rotation"),
        _field(
            "image_score", pa.float32(), "raw score by the model's rule; higher: more anomalous"
        ),
        _field(
            "p_value", pa.float32(), "share of held-out good images that score as high, +1 rule"
        ),
        _field("threshold", pa.float32(), "the calibration's, when scored; null for an error"),
        _field("is_anomalous", pa.bool_(), "score above threshold; null for an error: never OK"),
        _field("anomaly_map", pa.binary(), "little-endian, row-major; mrkd.schema.read_map"),
        _field("map_height", pa.int32(), "rows of the stored map"),
        _field("map_width", pa.int32(), "columns of the stored map"),
        _field("map_dtype", pa.string(), "float16, float32, or uint8 scaled from min to max"),
        _field("map_min", pa.float32(), "lowest value of the map"),
        _field("map_max", pa.float32(), "highest value of the map"),
        _field("regions", pa.list_(REGION), "connected, above the pixel threshold, by peak"),
        _field("brightness", pa.float32(), "mean luma, 0 to 1"),
        _field("contrast", pa.float32(), "standard deviation of the luma"),
        _field("sharpness", pa.float32(), "variance of the Laplacian of the luma"),
        _field("error_kind", pa.dictionary(pa.int8(), pa.string()), "null: scored"),
        _field("error_message", pa.string(), "one line that says what to do"),
        _field("model_version", pa.string(), "version that scored the image"),
        _field("calibration", pa.int32(), "number of the version's calibration"),
        _field("teacher", pa.string(), "name and digest of the teacher"),
    ],
    metadata={"schema": "mrkd.scores", "schema_version": str(SCHEMA_VERSION)},
)
"""Rows of a night: one for each planned image, with a score or an error. The category is in the
path, as Hive partitions are, and in the file's metadata."""

PLAN = pa.schema(
    [
        _field("image_uri", pa.string(), "as listed", nullable=False),
        _field("category", pa.string(), "by the archive's template", nullable=False),
        _field("image_etag", pa.string(), "as listed"),
        _field("image_bytes", pa.int64(), "as listed"),
        _field("attributes", ATTRIBUTES, "the other fields of the archive's template"),
        _field("revision", pa.int32(), "number of the plan"),
        _field("shard", pa.string(), "id of the shard that holds the row"),
        _field("supersedes", pa.int32(), "revision of the row that this one replaces, if any"),
    ],
    metadata={"schema": "mrkd.plan", "schema_version": str(SCHEMA_VERSION)},
)
"""Rows of one plan of a night; the models that it pins stand in the file's metadata."""

METRICS = pa.schema(
    [
        _field("category", pa.string(), "of the model and the images", nullable=False),
        _field("metric", pa.string(), "image_auroc, pixel_auroc, aupro, ...", nullable=False),
        _field("defect", pa.string(), "null: over all defects"),
        _field("value", pa.float64(), "null: not defined, see reason"),
        _field("low", pa.float64(), "lower end of the 95 % interval"),
        _field("high", pa.float64(), "upper end of the 95 % interval"),
        _field("seed", pa.int64(), "of the training"),
        _field("model_version", pa.string(), "version that was evaluated"),
        _field("reason", pa.string(), "why there is no value"),
    ],
    metadata={"schema": "mrkd.metrics", "schema_version": str(SCHEMA_VERSION)},
)
"""Rows of an evaluation."""


class Row(Protocol):
    """A row by column name: a dict of pyarrow or DuckDB, a pandas Series, ..."""

    def __getitem__(self, key: str, /) -> Any:
        """The value of a column."""


def score_table(
    rows: Sequence[Mapping[str, Any]], *, category: str, metadata: Mapping[str, str]
) -> pa.Table:
    """The SCORES table of these rows, sorted by URI; columns that a row leaves out are null.

    Args:
        rows: values by column name.
        category: of all rows; it goes into the metadata.
        metadata: what else the file says of itself; `scored_at` is now unless given.

    Raises:
        ValueError: a row with a column that SCORES lacks; with neither a score nor an error or
            with both; an error that is decided or has no message; a score that is not.
    """
    for row in rows:
        _check_score_row(row)
    ordered = sorted(map(_with_one_line, rows), key=lambda row: str(row["image_uri"]))
    facts = {
        b"category": category,
        b"scored_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **{key.encode(): value for key, value in metadata.items()},
    }
    schema = SCORES.with_metadata({**(SCORES.metadata or {}), **facts})
    return pa.Table.from_pylist(ordered, schema=schema)


def _with_one_line(row: Mapping[str, Any]) -> Mapping[str, Any]:
    # A message names its file, and a file's name may hold line breaks.
    message = row.get("error_message")
    return row if message is None else {**row, "error_message": " ".join(message.splitlines())}


def _check_score_row(row: Mapping[str, Any]) -> None:
    uri, kind, score = row.get("image_uri"), row.get("error_kind"), row.get("image_score")
    if unknown := set(row) - set(SCORES.names):
        raise ValueError(f"row of {uri}: SCORES has no column {', '.join(sorted(unknown))}")
    if (score is None) == (kind is None):
        raise ValueError(f"row of {uri}: it needs an image_score or an error_kind, never both")
    if (row.get("is_anomalous") is None) == (kind is None):
        raise ValueError(f"row of {uri}: a scored image is decided, an error never is")
    if score is not None and not math.isfinite(score):
        raise ValueError(f"row of {uri}: image_score is {score}")
    if kind is not None and (kind not in ERROR_KINDS or not row.get("error_message")):
        raise ValueError(f"row of {uri}: error {kind!r} is not of ERROR_KINDS or has no message")


def encode_map(anomaly_map: NDArray[np.float32], dtype: MapType) -> dict[str, Any]:
    """The map_* columns of a row.

    Args:
        anomaly_map: float32 `[H, W]`, finite.
        dtype: how a value is stored; `uint8` rounds to 255 steps between the map's ends, float16
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
        stored = np.clip(anomaly_map, -limit, limit).astype(_STORED[dtype])
    height, width = anomaly_map.shape
    values = (stored.tobytes(), height, width, dtype, low, high)
    return dict(zip(MAP_COLUMNS, values, strict=True))


MAP_COLUMNS = ("anomaly_map", "map_height", "map_width", "map_dtype", "map_min", "map_max")
_STORED = {"float16": "<f2", "float32": "<f4", "uint8": "u1"}


def read_map(row: Row) -> NDArray[np.float32] | None:
    """The anomaly map of a stored row, float32 `[H, W]`; None where none is stored.

    Args:
        row: a row by column name, as pyarrow's `to_pylist`, pandas or DuckDB give it.

    Raises:
        ValueError: the bytes do not fit the other map columns.
    """
    data = row["anomaly_map"]
    if not isinstance(data, bytes | bytearray | memoryview):  # None, or a NaN or NA of pandas
        return None
    shape, dtype = (int(row["map_height"]), int(row["map_width"])), str(row["map_dtype"])
    if dtype not in _STORED:
        raise ValueError(f"map_dtype is {dtype!r}, allowed: {', '.join(_STORED)}")
    stored = np.frombuffer(data, _STORED[dtype])
    if stored.size != shape[0] * shape[1]:
        raise ValueError(f"the map has {stored.size} values, not {shape[0]} x {shape[1]}")
    values = stored.reshape(shape).astype(np.float32)
    if dtype != "uint8":
        return values
    low, high = np.float32(row["map_min"]), np.float32(row["map_max"])
    return np.asarray(low + values * ((high - low) / np.float32(255)), np.float32)


def to_parquet(table: pa.Table) -> bytes:
    """The table as one Parquet file, zstd, built in memory so that it is put whole."""
    # Maps never repeat: a dictionary or their least and greatest bytes would only cost room.
    lean = [f.name for f in table.schema if not pa.types.is_binary(f.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=lean, write_statistics=lean)
    return bytes(sink.getvalue())


def from_parquet(data: bytes, *, name: str = "Parquet data") -> pa.Table:
    """The table in the bytes of a Parquet file.

    Args:
        data: the whole file.
        name: what the error calls it.

    Raises:
        ArtefactError: it is no Parquet file, or a damaged one.
    """
    try:
        return pq.ParquetFile(pa.BufferReader(data)).read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ArtefactError(
            f"{name} is no whole Parquet file ({reason}): write it again"
        ) from error
