"""S3 Inventory: a bucket's daily listing, a `manifest.json` beside its data files."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mrkd import storage
from mrkd.errors import ConfigError, StorageError
from mrkd.nights.archive.manifest_files import DataFile

_COLUMNS = re.compile(
    "versionid|islatest|isdeletemarker|lastmodifieddate|storageclass|ismultipartuploaded|"
    "replicationstatus|encryptionstatus|objectlockretainuntildate|objectlockmode|"
    "objectlocklegalholdstatus|intelligenttieringaccesstier|bucketkeystatus|checksumalgorithm|"
    "objectaccesscontrollist|objectowner|lifecycleexpirationdate"
)


def is_own_column(name: str) -> bool:
    """Whether an inventory has such a column, beside bucket, key, size and ETag."""
    return _COLUMNS.fullmatch(name.lower().replace("_", "")) is not None


def data_files(uri: str) -> Iterator[DataFile]:
    """The files that an inventory's `manifest.json` names.

    Raises:
        ConfigError: it is not there, is not such a file, or its files are ORC.
        StorageError: it cannot be read.
    """
    try:
        manifest = storage.read_json(uri)
        bucket = manifest["destinationBucket"].removeprefix("arn:").rpartition(":")[2]
        kind, schema = manifest["fileFormat"], manifest["fileSchema"]
        keys = [file["key"] for file in manifest["files"]]
        columns = tuple(re.split(r"\s*,\s*", schema.strip())) if kind == "CSV" else None
        uris = [storage.join(f"s3://{bucket}", key) for key in keys]
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"archive.manifest {uri} is not a manifest.json of an S3 Inventory ({error!r}): name "
            "one, or a .parquet or .csv file"
        ) from error
    except StorageError as error:
        if error.kind == "missing" or isinstance(error.__cause__, ValueError | RecursionError):
            raise ConfigError(f"archive.manifest: {error}") from error
        raise
    if kind not in ("CSV", "Parquet"):
        raise ConfigError(
            f"archive.manifest {uri} is an inventory in {kind}: let S3 write CSV or Parquet"
        )
    return (DataFile(file, columns, encoded=kind == "CSV") for file in uris)
