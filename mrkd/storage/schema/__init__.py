"""Arrow schemas of what mrkd stores in Parquet, their version, and one builder for rows.

The names, types and order of columns are here and nowhere else. Any reader of Parquet opens the
files; `read_map` is all that it needs beside, and it needs numpy alone.
"""

from mrkd.storage.schema.map_codec import MAP_COLUMNS, MapRow, MapType, encode_map, read_map
from mrkd.storage.schema.parquet import from_parquet, to_parquet
from mrkd.storage.schema.tables import (
    ATTRIBUTES,
    DIFFERENCES,
    ERROR_KINDS,
    FIGURES,
    METRICS,
    OPERATING,
    PLAN,
    REGION,
    SCHEMA_VERSION,
    SCORES,
    score_table,
)

__all__ = [
    "ATTRIBUTES",
    "DIFFERENCES",
    "ERROR_KINDS",
    "FIGURES",
    "MAP_COLUMNS",
    "METRICS",
    "OPERATING",
    "PLAN",
    "REGION",
    "SCHEMA_VERSION",
    "SCORES",
    "MapRow",
    "MapType",
    "encode_map",
    "from_parquet",
    "read_map",
    "score_table",
    "to_parquet",
]
