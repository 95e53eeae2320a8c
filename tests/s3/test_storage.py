"""The places of mrkd.storage on a real S3 server, reached through the environment alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from mrkd import schema, storage
from mrkd.errors import StorageError
from tests.support.faulty_proxy import FaultyProxy
from tests.support.s3_server import KEY, SECRET, S3Server

ODD_NAMES = [
    "a b.png",
    "ü/漢字.png",
    "100%25.png",
    "a#1.png",
    "a?b=c&d.png",
    "plus+eq=.png",
]


@pytest.fixture
def proxy(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch):
    with FaultyProxy(s3_server.endpoint) as faulty:
        monkeypatch.setenv("AWS_ENDPOINT_URL", faulty.endpoint)
        yield faulty


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


def test_a_listing_holds_more_than_one_page_and_filters_by_suffix(bucket):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: storage.write(f"{bucket}/in/{n:04}.PNG", b"x"), range(1005)))
    storage.write(f"{bucket}/in/notes.txt", b"x")
    storage.write(f"{bucket}/in-2/other.png", b"x")
    files = storage.list_files(f"{bucket}/in", suffixes=(".png", ".jpg"))
    assert [f.uri for f in files] == [f"{bucket}/in/{n:04}.PNG" for n in range(1005)]


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


def test_a_put_whose_answer_was_lost_is_known_as_our_own(proxy, bucket):
    proxy.spoil("PUT", "lose_answer")
    assert storage.write(f"{bucket}/x", b"ours", if_absent=True)
    assert proxy.seen.count("PUT") == 2
    etag = storage.fetch(f"{bucket}/x").etag
    proxy.spoil("PUT", "lose_answer")
    assert storage.write(f"{bucket}/x", b"ours too", if_match=etag)
    assert storage.read(f"{bucket}/x") == b"ours too"


def test_a_body_cut_in_mid_stream_is_read_again(proxy, bucket):
    data = bytes(range(256)) * 400
    storage.write(f"{bucket}/x", data)
    proxy.spoil("GET", "cut_body", times=2)
    assert storage.read(f"{bucket}/x") == data
    assert proxy.seen.count("GET") == 3


def test_a_body_that_is_always_cut_is_unreachable(proxy, bucket):
    storage.write(f"{bucket}/x", bytes(1000))
    proxy.spoil("GET", "cut_body", times=20)
    with pytest.raises(StorageError, match="broke off 5 times") as caught:
        storage.read(f"{bucket}/x")
    assert caught.value.kind == "unreachable"


def test_a_busy_server_is_asked_again(proxy, bucket):
    proxy.spoil("PUT", "unavailable")
    assert storage.write(f"{bucket}/x", b"1")
    proxy.spoil("GET", "unavailable")
    assert storage.read(f"{bucket}/x") == b"1"


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


def test_pyarrow_reads_what_was_written(bucket):
    table = pa.table({"x": [1, 2, 3]})
    storage.write(f"{bucket}/t/category=0012/a.parquet", schema.to_parquet(table))
    filesystem, path = storage.open_uri(f"{bucket}/t")
    assert ds.dataset(path, filesystem=filesystem).to_table() == table
