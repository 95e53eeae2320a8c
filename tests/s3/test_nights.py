"""A whole night on a real S3 server, archive and workspace both."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from mrkd import storage
from mrkd.errors import NightError
from mrkd.nights.manifest import Manifest, open_night, unopened
from mrkd.nights.night import Night
from tests.support.faulty_proxy import FaultyProxy
from tests.support.nights import add, config, pins, run, score
from tests.support.tars import tar_bytes

KEYS = [
    "0012/a b.png",
    "0012/ü#1%.png",
    *[f"plate/{n}.png" for n in range(7)],
    "new/1.png",
    "x.png",
]


@pytest.fixture
def archive(bucket):
    add(f"{bucket}/archive", *KEYS)
    return f"{bucket}/archive/"


@pytest.fixture
def night(bucket):
    return Night(f"{bucket}/mrkd", "night-1")


@pytest.fixture
def settings(night, archive):
    return config(night.workspace, archive)


def rows(night):
    return open_night(night.uri).to_table().to_pylist()


def test_a_night_has_one_row_for_each_image(night, settings, archive):
    run(night, settings)
    found = {row["image_uri"]: row for row in rows(night)}
    assert sorted(found) == sorted(archive + key for key in KEYS)
    assert found[archive + "0012/a b.png"]["category"] == "0012"
    etags = {file.uri: file.etag for file in storage.list_files(archive)}
    assert {uri: row["image_etag"] for uri, row in found.items()} == etags
    assert run(night, settings) == []


def test_late_overwritten_and_restored_images_are_scored_again(night, settings, archive):
    run(night, settings)
    add(archive, "plate/late.png")
    (uri,) = add(archive, "plate/0.png", content=b"another")
    run(night, settings)
    add(archive, "plate/0.png")  # on S3 the same bytes have the same ETag as before
    run(night, settings)
    found = {row["image_uri"]: (row["revision"], row["image_bytes"]) for row in rows(night)}
    assert len(found) == len(KEYS) + 1
    assert found[archive + "plate/late.png"][0] == 2
    assert found[uri] == (3, 5)


def test_a_tar_out_of_reach_is_told_until_it_was_opened(
    bucket, night, archive, s3_server, monkeypatch
):
    ours = config(night.workspace, archive, retry_errors=("forbidden",))
    good, lost = (f"{archive}plate/{name}.tar" for name in ("good", "lost"))
    for uri in (good, lost):
        storage.write(uri, tar_bytes({f"{n}.png": b"image" for n in range(2)}))
    with FaultyProxy(s3_server.endpoint) as proxy:
        proxy.deny(lost)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        run(night, ours)
        assert unopened(night.uri, ours.archive.tars) == [lost]
        assert len(rows(night)) == len(KEYS) + 3
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    run(night, ours)
    assert unopened(night.uri, ours.archive.tars) == []
    assert len(rows(night)) == len(KEYS) + 4


def test_workers_that_race_for_every_shard_commit_each_once(night, settings):
    revision = next(night.revisions(settings, pins))
    shards = night.todo(revision)
    jobs = [
        (shard, shard.error_table("internal", f"of worker {n}"))
        for n in range(4)
        for shard in shards
    ]
    with ThreadPoolExecutor(8) as pool:
        commits = list(pool.map(lambda job: night.commit(*job), jobs))
    statuses = [commit.status for commit in commits]
    assert statuses.count("written") == len(shards)
    assert statuses.count("conflict") == 3 * len(shards)
    assert night.todo(revision) == []
    assert night.close(revision).rows == len(KEYS)
    assert len(rows(night)) == len(KEYS)


def test_a_commit_whose_answer_got_lost_is_no_conflict(s3_server, night, settings, monkeypatch):
    shards = night.todo(next(night.revisions(settings, pins)))
    with FaultyProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.spoil("PUT", "lose_answer")
        assert night.commit(shards[0], score(shards[0])).status == "written"
        proxy.spoil("PUT", "unavailable", times=2)
        assert night.commit(shards[1], score(shards[1])).status == "written"


def test_one_start_works_and_the_other_is_told_who_does(night, settings):
    with night.lease() as lease:
        with pytest.raises(NightError, match=r"lease\.json is held by"):
            run(night, settings)
        lease.beat()
    assert len(run(night, settings)) > 0


def test_of_starts_that_meet_one_holds_the_lease(night):
    leases = [night.lease() for _ in range(8)]

    def enter(lease):
        try:
            return lease.__enter__()
        except NightError:
            return None

    with ThreadPoolExecutor(8) as pool:
        held = [lease for lease in pool.map(enter, leases) if lease]
    assert len(held) == 1
    held[0].__exit__(None, None, None)


def test_a_shard_that_is_missing_keeps_the_night_open(night, settings):
    run(night, settings)
    manifest = Manifest.read(f"{night.uri}/_MANIFEST.json")
    storage.delete(f"{night.uri}/manifests/manifest-1.json")
    storage.delete(f"{night.uri}/scores/{manifest.shards[0].file}")
    with pytest.raises(NightError, match="lacks 1 of"):
        night.close(1)
    assert [commit.status for commit in run(night, settings)] == ["written"]
    assert len(rows(night)) == len(KEYS)
