"""What mrkd.storage makes of a real S3 server that answers badly."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from mrkd import storage
from mrkd.errors import StorageError
from tests.support.faulty_proxy import MIX, FaultyProxy
from tests.support.s3_server import S3Server


@pytest.fixture(scope="module")
def stored(s3_server: S3Server):
    """The bucket of some objects, and what they hold by their URIs."""
    bucket = s3_server.new_bucket()
    client = s3_server.client()
    content = {f"{bucket}/in/{n:03}": bytes([n]) * (1000 + n) for n in range(64)}
    for uri, data in content.items():
        name = uri.removeprefix(f"{bucket}/")
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=name, Body=data)
    return bucket, content


@pytest.fixture
def bucket(stored):
    return stored[0]


@pytest.fixture
def proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    with FaultyProxy(s3_server.endpoint) as faulty:
        monkeypatch.setenv("AWS_ENDPOINT_URL", faulty.endpoint)
        yield faulty


@pytest.fixture
def files(proxy, stored):
    """What the objects hold; one was read already, so that the short way is known."""
    first, *_ = content = stored[1]
    assert storage.read(first) == content[first]
    return content


def test_a_put_whose_answer_was_lost_is_known_as_our_own(proxy, bucket):
    proxy.spoil("PUT", "lose_answer")
    assert storage.write(f"{bucket}/out/x", b"ours", if_absent=True)
    assert proxy.seen.count("PUT") == 2
    etag = storage.fetch(f"{bucket}/out/x").etag
    proxy.spoil("PUT", "lose_answer")
    assert storage.write(f"{bucket}/out/x", b"ours too", if_match=etag)
    assert storage.read(f"{bucket}/out/x") == b"ours too"


def test_a_body_cut_in_mid_stream_is_read_again(proxy, bucket):
    data = bytes(range(256)) * 400
    storage.write(f"{bucket}/out/x", data)
    proxy.spoil("GET", "cut_body", times=2)
    assert storage.read(f"{bucket}/out/x") == data
    assert proxy.seen.count("GET") == 3


def test_a_body_that_is_always_cut_is_unreachable(proxy, bucket):
    storage.write(f"{bucket}/out/x", bytes(1000))
    proxy.spoil("GET", "cut_body", times=20)
    with pytest.raises(StorageError, match="broke off 5 times") as caught:
        storage.read(f"{bucket}/out/x")
    assert caught.value.kind == "unreachable"


def test_a_busy_server_is_asked_again(proxy, bucket):
    proxy.spoil("PUT", "unavailable")
    assert storage.write(f"{bucket}/out/x", b"1")
    proxy.spoil("GET", "unavailable")
    assert storage.read(f"{bucket}/out/x") == b"1"


@pytest.mark.parametrize("fault", MIX)
def test_one_bad_answer_changes_nothing(proxy, files, fault):
    uri, data = list(files.items())[7]
    before = storage.requests()
    proxy.mix(0.0, seed=0, stall_s=0.1)
    proxy.spoil("GET", fault)
    assert storage.fetch_range(uri, 10, 20, if_match=None).data == data[10:30]
    proxy.spoil("GET", fault)
    assert storage.read(uri) == data
    assert proxy.spoilt[fault] == 2
    asked = storage.requests() - before
    repeated = 0 if fault == "stall" else 2
    slowed = {"slowed": 2} if fault == "unavailable" else {}
    assert +asked == +Counter({"GET": 2 + repeated, "retried": repeated, **slowed})


def test_a_damaged_body_is_read_again(proxy, files):
    uri, data = list(files.items())[7]
    proxy.spoil("GET", "damage", times=2)
    assert storage.read(uri) == data
    assert proxy.spoilt["damage"] == 2


def test_many_bad_answers_change_nothing(proxy, files):
    # Without 503s: those lower the rate for the rest of the test.
    kinds = tuple(kind for kind in MIX if kind != "unavailable")
    proxy.mix(0.2, seed=11, kinds=kinds, stall_s=0.2)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(storage.read, files)) == list(files.values())
        copies = [uri.replace("/in/", "/copy/") for uri in files]
        written = pool.map(
            lambda uri, data: storage.write(uri, data, if_absent=True), copies, files.values()
        )
        assert all(written)
    assert [file.num_bytes for file in storage.list_files(copies[0][:-4])] == [
        len(data) for data in files.values()
    ]
    assert len(proxy.spoilt) > 3


def test_a_listing_that_fails_or_breaks_off_is_asked_for_again(proxy, files):
    for fault in ("error", "reset", "cut_body", "lose_answer"):
        proxy.spoil("GET", fault)
        assert len(storage.list_files(next(iter(files))[:-4])) == 64
    assert sum(proxy.spoilt.values()) == 4


def test_single_keys_may_be_forbidden_or_unreachable(proxy, files):
    first, second, third, *_ = files
    proxy.deny(first)
    proxy.fail(second.removeprefix("s3://"))
    for uri, kind in ((first, "forbidden"), (second, "unreachable")):
        for read in (storage.read, lambda uri: storage.fetch_range(uri, 0, 9, if_match=None)):
            with pytest.raises(StorageError) as caught:
                read(uri)
            assert caught.value.kind == kind
            assert uri in str(caught.value)
    assert storage.read(third) == files[third]


def test_a_server_that_asks_for_less_is_asked_less(proxy, files):
    few = list(files)[:8]

    def seconds() -> float:
        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(storage.read, few))
        return time.monotonic() - began

    before = seconds()
    proxy.spoil("GET", "unavailable", times=4)
    storage.read(few[0])
    assert proxy.spoilt == {"unavailable": 4}
    assert seconds() > 3 * before
