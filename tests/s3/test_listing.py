"""Listings of mrkd.storage that are more than a page, on a real S3 server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from mrkd import storage


@pytest.fixture(scope="module")
def archive(s3_server):
    """A bucket, and the names below its folder `in`, in a tree with files at every level."""
    bucket = s3_server.new_bucket()
    names = ["readme.txt", "a.png"]
    for category in ("0012", "plate", "ü b"):
        names += [f"{category}/notes.txt"]
        names += [f"{category}/line-{n}/{m:02}.PNG" for n in range(5) for m in range(20)]
    names += [f"wide/{n:04}.png" for n in range(1005)]
    names += [f"plate/line-0/deep/er/{n}.png" for n in range(3)]
    client = s3_server.client()

    def put(key: str, body: bytes = b"x") -> None:
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=key, Body=body)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, [f"in/{name}" for name in names] + ["in-2/other.png"]))
    put("in/plate/marker/", b"")
    return bucket, names


@pytest.fixture
def listed(archive, s3_server, monkeypatch):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return archive


def test_a_tree_is_listed_whole_once_and_sorted(listed):
    bucket, names = listed
    files = storage.list_files(f"{bucket}/in")
    assert [file.uri for file in files] == sorted(f"{bucket}/in/{name}" for name in names)
    assert {file.num_bytes for file in files} == {1}
    assert len({file.etag for file in files}) == 1
    assert files[0] == storage.stat(files[0].uri)


def test_a_listing_may_be_taken_in_parts_and_by_suffix(listed):
    bucket, names = listed
    parts = list(storage.iter_files(f"{bucket}/in/", suffixes=(".png",)))
    assert max(map(len, parts)) <= 1000
    assert len(parts) > 3
    uris = sorted(file.uri for part in parts for file in part)
    wanted = [name for name in names if name.lower().endswith(".png")]
    assert uris == sorted(f"{bucket}/in/{name}" for name in wanted)


def test_a_listing_need_not_be_taken_to_its_end(listed):
    bucket, _ = listed
    parts = storage.iter_files(f"{bucket}/in")
    assert next(parts)
    parts.close()
    assert next(parts, None) is None


@pytest.mark.parametrize(("folder", "most"), [("in/0012", 1), ("in/wide", 4), ("in", 36)])
def test_a_listing_costs_few_requests(listed, folder, most):
    bucket, _ = listed
    before = storage.requests()
    storage.list_files(f"{bucket}/{folder}")
    storage.exists(f"{bucket}/{folder}/none")
    asked = storage.requests() - before
    assert asked["LIST"] <= most + 1
