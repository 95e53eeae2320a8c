"""Archives on a real S3 server: tars, manifests and inventories, through faults too."""

import gzip
import io
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mrkd import storage
from mrkd.config import ArchiveConfig
from mrkd.errors import ConfigError, StorageError
from mrkd.nights.archive import list_images, read_members, write_manifest
from mrkd.storage import Fetched
from tests.support.faulty_proxy import FaultyProxy
from tests.support.nights import add
from tests.support.tars import put, tar_bytes

IMAGES = {f"{n}.png": bytes([n]) * 30_000 for n in range(100)}
KEYS = ["plate/a b.png", "plate/a+b.png", "plate/ü#1%.png", "0012/1.png"]


def images(uri="", **values):
    return list_images(ArchiveConfig(uri=uri, **values)).to_pylist()


def kinds(rows):
    return {row["image_uri"].rpartition("/")[2]: row["error_kind"] for row in rows}


def error_kinds(rows):
    reads = [read for _, read in read_members(rows)]
    assert len(reads) == len(rows)
    return {read.kind if isinstance(read, StorageError) else None for read in reads}


def inventory(bucket, rows, kind):
    """Puts an inventory as S3 writes one; the URI of its manifest.json."""
    name = bucket.removeprefix("s3://")
    fields = ["Bucket", "Key", "VersionId", "IsLatest", "IsDeleteMarker", "Size", "ETag"]
    table = [[name, key, "", "true", "false", str(size), etag] for key, size, etag in rows]
    if kind == "CSV":
        cells = [[*row[:1], quote_plus(row[1]), *row[2:]] for row in table]
        text = "".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in cells)
        data, schema, suffix = gzip.compress(text.encode()), ", ".join(fields), "csv.gz"
    else:
        snake = ["bucket", "key", "version_id", "is_latest", "is_delete_marker", "size", "e_tag"]
        columns = dict(zip(snake, zip(*table, strict=True), strict=True))
        arrays = {key: pa.array(values) for key, values in columns.items()}
        arrays |= {key: arrays[key].cast(pa.bool_()) for key in ("is_latest", "is_delete_marker")}
        arrays["size"] = arrays["size"].cast(pa.int64())
        sink = io.BytesIO()
        pq.write_table(pa.table(arrays), sink)
        data, schema, suffix = sink.getvalue(), "message s3.inventory {}", "parquet"
    storage.write(f"{bucket}/inv/data/1.{suffix}", data)
    manifest = {
        "sourceBucket": name,
        "destinationBucket": f"arn:aws:s3:::{name}",
        "version": "2016-11-30",
        "creationTimestamp": "1790000000000",
        "fileFormat": kind,
        "fileSchema": schema,
        "files": [{"key": f"inv/data/1.{suffix}", "size": len(data), "MD5checksum": ""}],
    }
    uri = f"{bucket}/inv/2026-11-23T00-00Z/manifest.json"
    storage.write_json(uri, manifest)
    return uri


def test_tars_and_files_are_one_archive_and_members_are_read(bucket):
    put(bucket, "archive/plate/1.tar", tar_bytes(IMAGES))
    add(f"{bucket}/archive", "plate/l1/1.png")
    rows = images(f"{bucket}/archive/")
    assert len(rows) == 101
    before = storage.requests()["GET"]
    members = [row for row in rows if row["offset"] is not None]
    found = {
        row["image_uri"].rpartition("#")[2]: read.data
        for row, read in read_members(members)
        if isinstance(read, Fetched)
    }
    assert found == IMAGES
    assert storage.requests()["GET"] == before + 1


def test_a_known_tar_costs_no_request(bucket):
    uri = put(bucket, "archive/plate/1.tar", tar_bytes(IMAGES))
    config = ArchiveConfig(uri=f"{bucket}/archive")
    known = {uri: storage.stat(uri).etag}
    before = storage.requests()["GET"]
    assert list_images(config, known).num_rows == 0
    assert storage.requests()["GET"] == before


def test_a_tar_that_is_overwritten_after_it_was_listed_has_changed(bucket):
    uri = put(bucket, "archive/plate/1.tar", tar_bytes(IMAGES))
    rows = images(f"{bucket}/archive")
    put(bucket, "archive/plate/1.tar", tar_bytes({"0.png": b"another"}))
    assert error_kinds(rows) == {"changed"}
    storage.delete(uri)
    assert error_kinds(rows) == {"missing"}


def test_faults_of_the_network_change_nothing(s3_server, bucket, monkeypatch):
    put(bucket, "archive/plate/1.tar", tar_bytes(IMAGES))
    calm = images(f"{bucket}/archive")
    with FaultyProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.spoil("GET", "unavailable")
        proxy.spoil("GET", "cut_body", times=2)
        assert images(f"{bucket}/archive") == calm
        proxy.spoil("GET", "cut_body")
        reads = [read for _, read in read_members(calm)]
    assert all(isinstance(read, Fetched) for read in reads)


def test_a_tar_that_may_not_be_read_is_a_row_and_so_is_one_that_is_not_reached(
    s3_server, bucket, monkeypatch
):
    for name in ("1", "2", "3"):
        put(bucket, f"archive/plate/{name}.tar", tar_bytes({"a.png": b"x"}))
    with FaultyProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.deny(f"{bucket}/archive/plate/2.tar")
        proxy.fail(f"{bucket}/archive/plate/3.tar")
        found = kinds(images(f"{bucket}/archive"))
    assert found == {"1.tar#a.png": None, "2.tar": "forbidden", "3.tar": "unreachable"}


def test_tars_of_which_none_is_reached_end_the_listing(s3_server, bucket, monkeypatch):
    put(bucket, "archive/plate/1.tar", tar_bytes({"a.png": b"x"}))
    with FaultyProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.fail(f"{bucket}/archive/plate")
        with pytest.raises(StorageError, match=r"1\.tar"):
            images(f"{bucket}/archive")


@pytest.mark.parametrize("kind", ["CSV", "Parquet"])
def test_an_inventory_names_what_the_bucket_holds(bucket, kind):
    add(f"{bucket}/archive", *KEYS, "notes.txt")
    put(bucket, "archive/plate/1.tar", tar_bytes({"a.png": b"x"}))
    files = storage.list_files(bucket)
    rows = [(file.uri.removeprefix(f"{bucket}/"), file.num_bytes, file.etag) for file in files]
    manifest = inventory(bucket, rows, kind)
    assert images(f"{bucket}/archive", manifest=manifest) == images(f"{bucket}/archive")


def test_an_inventory_in_orc_or_without_its_files_is_refused(bucket):
    manifest = inventory(bucket, [("a/1.png", 1, "e")], "Parquet")
    storage.delete(f"{bucket}/inv/data/1.parquet")
    with pytest.raises(ConfigError, match=r"1\.parquet is not there"):
        images(manifest=manifest)
    storage.write_json(manifest, storage.read_json(manifest) | {"fileFormat": "ORC"})
    with pytest.raises(ConfigError, match="inventory in ORC"):
        images(manifest=manifest)


def test_a_manifest_is_written_and_read_on_s3(bucket):
    add(f"{bucket}/archive", *KEYS)
    put(bucket, "archive/plate/1.tar", tar_bytes(IMAGES))
    counts = write_manifest(f"{bucket}/archive", f"{bucket}/lists/m.parquet")
    assert counts["members"] == 100
    listed = images(f"{bucket}/archive")
    assert images(f"{bucket}/archive", manifest=f"{bucket}/lists/m.parquet") == listed
    alone = [row["image_uri"] for row in listed if row["offset"] is None]
    storage.write(f"{bucket}/lists/m.csv", "\n".join(["uri", *alone, ""]).encode())
    rows = images(f"{bucket}/archive", manifest=f"{bucket}/lists/m.csv")
    assert [row["image_uri"] for row in rows] == alone
    assert {row["image_etag"] for row in rows} == {None}
