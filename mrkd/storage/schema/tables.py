"""The columns of what mrkd stores in Parquet, their version, and one builder for a night's rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

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
    "unlike",
)
"""Why an image has no score."""


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
        _field("anomaly_map", pa.binary(), "row-major, as map_dtype says; mrkd.read_map"),
        _field("map_height", pa.int32(), "rows of the stored map"),
        _field("map_width", pa.int32(), "columns of the stored map"),
        _field(
            "map_dtype",
            pa.string(),
            "float32; float16, or uint8 scaled from min to max, _packed but in old files",
        ),
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
        _field("offset", pa.int64(), "of a tar member's bytes in its tar; null: a file by itself"),
        _field("error_kind", pa.string(), "known when it was planned; null: it is to be read"),
        _field("error_message", pa.string(), "one line that says what to do"),
    ],
    metadata={"schema": "mrkd.plan", "schema_version": str(SCHEMA_VERSION)},
)
"""Rows of one plan of a night; the models that it pins are in the file's metadata."""

METRICS = pa.schema(
    [
        _field("category", pa.string(), "of the images; null: mean over categories"),
        _field("metric", pa.string(), "image_auroc, pixel_auroc, aupro, ...", nullable=False),
        _field("defect", pa.string(), "null: over all defects"),
        _field("value", pa.float64(), "null: not defined, see reason"),
        _field("low", pa.float64(), "lower end of the 95 % interval"),
        _field("high", pa.float64(), "upper end of the 95 % interval"),
        _field("seed", pa.int64(), "of the training; null: mean over seeds"),
        _field("model_version", pa.string(), "version that was evaluated"),
        _field("reason", pa.string(), "why the value is missing"),
        _field("study", pa.string(), "table of a protocol; null: champions"),
        _field("arm", pa.string(), "row of that table"),
        _field("config_digest", pa.string(), "of network and training"),
    ],
    metadata={"schema": "mrkd.metrics", "schema_version": str(SCHEMA_VERSION)},
)
"""Rows of an evaluation."""

DIFFERENCES = pa.schema(
    [
        _field("study", pa.string(), "table of a protocol", nullable=False),
        _field("arm", pa.string(), "row of that table", nullable=False),
        _field("base", pa.string(), "row that it is compared with", nullable=False),
        _field("category", pa.string(), "null: mean over categories"),
        _field("metric", pa.string(), "image_auroc, pixel_auroc, aupro", nullable=False),
        _field("defect", pa.string(), "null: over all defects"),
        _field("value", pa.float64(), "of the arm less that of the base, mean over seeds"),
        _field("low", pa.float64(), "lower end of the 95 % interval, paired over images"),
        _field("high", pa.float64(), "upper end"),
        _field("by_seed", pa.list_(pa.float64()), "the difference with each seed by itself"),
        _field("words", pa.string(), "what it says", nullable=False),
    ],
    metadata={"schema": "mrkd.differences", "schema_version": str(SCHEMA_VERSION)},
)
"""Rows of a study's comparisons."""

OPERATING = pa.schema(
    [
        _field("category", pa.string(), "of the images", nullable=False),
        _field("rule", pa.string(), "why this threshold", nullable=False),
        _field("threshold", pa.float64(), "a part is called strictly above it", nullable=False),
        *(
            _field(f"{name}{end}", pa.float64(), f"{words}{of}", nullable=False)
            for name, words in (
                ("false_calls", "share of good parts called"),
                ("escapes", "share of defective parts not called"),
                ("false_calls_in_10000", "good parts called, of 10,000 parts of the line"),
                ("escapes_in_10000", "defective parts not called, of 10,000 parts of the line"),
            )
            for end, of in (("", ""), ("_low", ", 95 % interval"), ("_high", ", 95 % interval"))
        ),
        _field("cost_in_10000", pa.float64(), "of both, in the unit of the costs; null: not given"),
    ],
    metadata={"schema": "mrkd.operating", "schema_version": str(SCHEMA_VERSION)},
)
"""Rows of an evaluation's thresholds."""

FIGURES = METRICS.append(
    _field("draws", pa.list_(pa.float64()), "the figure over the resamples behind its interval")
)
"""Rows of one run of a study, from which means and differences of runs are made."""


def score_table(
    rows: Sequence[Mapping[str, Any]], *, category: str, metadata: Mapping[str, str]
) -> pa.Table:
    """The SCORES table of these rows, sorted by URI; columns that a row leaves out are null.

    Args:
        rows: values by column name.
        category: category of all rows; it goes into the metadata.
        metadata: further metadata of the file; `scored_at` is now unless given.

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
