"""The places of mrkd.storage on a real S3 server, reached through the environment alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from mrkd import storage
from mrkd.errors import StorageError
from mrkd.storage import schema
from mrkd.storage.s3_client import connection
from tests.support.s3_server import KEY, SECRET

ODD_NAMES = [
    "a b.png",
    "ü/漢字.png",
    "100%25.png",
    "a#1.png",
    "a?b=c&d.png",
    "plus+eq=.png",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_is_taken_as_it_is_written(bucket, name):
    uri = f"{bucket}/in/{name}"
    assert storage.write(uri, b"123")
    assert storage.read(uri) == b"123"
    entry = storage.stat(uri)
    assert storage.list_files(f"{bucket}/in") == [entry]
    assert entry == (uri, 3, storage.fetch(uri).etag)


def test_a_listing_is_sorted_by_uri_whatever_the_server_does(bucket):
    names = ["a/b", "a b.png", "a.png", "a-/x", "Z", "a/b.png", "é"]
    for name in names:
        storage.write(f"{bucket}/in/{name}", b"")
    assert [f.uri for f in storage.list_files(f"{bucket}/in/")] == sorted(
        f"{bucket}/in/{name}" for name in names
    )


def test_folders_are_what_keys_have_before_a_slash(s3_server, bucket):
    s3_server.client().put_object(Bucket=bucket.removeprefix("s3://"), Key="in/marker/", Body=b"")
    storage.write(f"{bucket}/in/b/x", b"1")
    storage.write(f"{bucket}/in/a/y/z", b"1")
    storage.write(f"{bucket}/in/file", b"1")
    assert storage.list_names(f"{bucket}/in") == ["a", "b", "marker"]
    assert len(storage.list_files(f"{bucket}/in")) == 3
    assert storage.exists(f"{bucket}/in")
    assert storage.exists(f"{bucket}/in/a/y/z")
    assert not storage.exists(f"{bucket}/in/fil")
    assert storage.list_files(f"{bucket}/none") == []
    assert storage.list_names(bucket) == ["in"]


def test_what_is_deleted_is_gone_and_may_be_deleted_again(bucket):
    storage.write(f"{bucket}/x", b"1")
    storage.delete(f"{bucket}/x")
    storage.delete(f"{bucket}/x")
    assert storage.stat(f"{bucket}/x") is None


def test_one_of_many_writers_wins_an_absent_place(bucket):
    for round_ in range(3):
        uri = f"{bucket}/race-{round_}"
        with ThreadPoolExecutor(8) as pool:
            won = list(
                pool.map(lambda n, u=uri: storage.write(u, b"%d" % n, if_absent=True), range(8))
            )
        assert sum(won) == 1
        assert storage.read(uri) == b"%d" % won.index(True)


def test_a_write_over_another_version_is_refused(bucket):
    uri = f"{bucket}/lease.json"
    assert not storage.write(uri, b"new", if_match="0" * 32)
    storage.write_json(uri, {"holder": 1})
    etag = storage.fetch(uri).etag
    assert storage.write_json(uri, {"holder": 2}, if_match=etag)
    assert not storage.write_json(uri, {"holder": 3}, if_match=etag)
    assert storage.read_json(uri) == {"holder": 2}


def test_a_refused_write_of_what_stands_there_counts_as_done(bucket):
    assert storage.write(f"{bucket}/x", b"same", if_absent=True)
    assert storage.write(f"{bucket}/x", b"same", if_absent=True)
    assert not storage.write(f"{bucket}/x", b"else", if_absent=True)


def test_a_missing_object_or_bucket_is_missing(bucket):
    for uri in (f"{bucket}/none", "s3://no-such-bucket-here/x"):
        with pytest.raises(StorageError, match="is not there") as caught:
            storage.read(uri)
        assert caught.value.kind == "missing"
        assert uri in str(caught.value)
        assert not storage.exists(f"{bucket}/none")


def test_a_changed_or_too_large_object_is_not_read(bucket):
    uri = f"{bucket}/x"
    storage.write(uri, b"one")
    etag = storage.fetch(uri).etag
    assert storage.fetch(uri, if_match=etag, max_bytes=3).data == b"one"
    with pytest.raises(StorageError) as caught:
        storage.fetch(uri, max_bytes=2)
    assert caught.value.kind == "too_large"
    storage.write(uri, b"two")
    with pytest.raises(StorageError) as caught:
        storage.fetch(uri, if_match=etag)
    assert caught.value.kind == "changed"


@pytest.mark.parametrize(("key", "secret"), [(KEY, "wrongsecret"), ("wrongkey", SECRET)])
def test_wrong_credentials_are_forbidden_and_never_repeated(bucket, monkeypatch, key, secret):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    for ask in (storage.read, storage.exists, lambda uri: storage.write(uri, b"1")):
        with pytest.raises(StorageError, match="no permission") as caught:
            ask(f"{bucket}/x")
        assert caught.value.kind == "forbidden"
        assert key not in str(caught.value)
        assert secret not in str(caught.value)


def test_no_credentials_at_all_are_forbidden(bucket, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageError) as caught:
        storage.read(f"{bucket}/x")
    assert caught.value.kind == "forbidden"


def test_a_server_that_is_gone_is_unreachable(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StorageError, match="cannot be reached") as caught:
        storage.read(f"{bucket}/x")
    assert caught.value.kind == "unreachable"


def test_a_range_is_these_bytes_and_fewer_only_at_the_end(bucket):
    uri, data = f"{bucket}/in/part é.tar", bytes(range(256)) * 8
    storage.write(uri, data)
    etag = storage.stat(uri).etag
    for _ in range(2):  # the SDK's way, then the short one that it taught
        for start, length in ((0, 512), (100, 1), (2000, 512), (2047, 1), (2048, 1), (9000, 9)):
            found = storage.fetch_range(uri, start, length, if_match=etag)
            assert found == (data[start : start + length], etag)
        assert storage.fetch(uri, if_match=etag) == (data, etag)
    assert storage.fetch_range(uri, 100, 0, if_match=None) == (b"", etag)
    storage.write(f"{bucket}/in/empty", b"")
    assert storage.fetch_range(f"{bucket}/in/empty", 0, 5, if_match=None).data == b""


@pytest.mark.parametrize("name", ODD_NAMES)
def test_what_the_sdk_has_read_once_is_read_the_short_way(bucket, name):
    place, key = bucket.removeprefix("s3://"), f"in/{name}"
    uri, short_get = f"{bucket}/{key}", connection().short_get
    storage.write(uri, b"123")
    assert short_get.get(uri, place, key, {}, None) is None
    found = storage.fetch(uri)
    assert short_get.get(uri, place, key, {}, None) == found
    assert short_get.get(uri, place, key, {"If-Match": '"0"'}, None) is None


@pytest.mark.parametrize(("start", "length"), [(0, 2), (1, 0), (50, 2)])
def test_a_range_of_another_version_or_of_nothing_is_an_error(bucket, start, length):
    uri = f"{bucket}/x.tar"
    storage.write(uri, b"old")
    etag = storage.fetch(uri).etag
    storage.write(uri, b"new")
    with pytest.raises(StorageError, match="has changed") as caught:
        storage.fetch_range(uri, start, length, if_match=etag)
    assert caught.value.kind == "changed"
    storage.delete(uri)
    with pytest.raises(StorageError, match="is not there") as caught:
        storage.fetch_range(uri, start, length, if_match=etag)
    assert caught.value.kind == "missing"


def test_requests_are_counted_by_what_they_ask(bucket, tmp_path):
    before = storage.requests()
    for n in range(3):
        storage.write(f"{bucket}/x-{n}", b"1")
        storage.read(f"{bucket}/x-{n}")
    storage.fetch_range(f"{bucket}/x-0", 0, 1, if_match=None)
    storage.list_files(bucket)
    storage.stat(f"{bucket}/x-0")
    storage.delete(f"{bucket}/x-0")
    storage.write(str(tmp_path / "x"), b"1")
    storage.list_files(str(tmp_path))
    asked = storage.requests() - before
    assert asked == {"PUT": 3, "GET": 4, "LIST": 1, "HEAD": 1, "DELETE": 1}


def test_pyarrow_reads_what_was_written(bucket):
    table = pa.table({"x": [1, 2, 3]})
    storage.write(f"{bucket}/t/category=0012/a.parquet", schema.to_parquet(table))
    filesystem, path = storage.open_uri(f"{bucket}/t")
    assert ds.dataset(path, filesystem=filesystem).to_table() == table
