"""Old nights without their maps: what goes, what stays, and what says so."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow.parquet as pq
import pytest

from mrkd import storage
from mrkd.errors import ArtefactError, NightError
from mrkd.nights.manifest import open_night, read_manifests
from mrkd.nights.prune_maps import due, prune
from mrkd.storage import schema
from mrkd.storage.lease import Lease
from tests.support.closed_nights import failed, scored, write_night

TODAY = datetime(2027, 3, 1, tzinfo=UTC)
AGE = timedelta(days=90)
REGION = {"x": 1, "y": 2, "width": 3, "height": 4, "area": 12, "peak": 1.0, "mean": 0.5}


def row(uri, score, **values):
    noise = np.random.default_rng(0).random((64, 64), np.float32)
    return scored(uri, score, regions=[REGION], **schema.encode_map(noise, "float16"), **values)


def night(workspace, run, *revisions, closed_at="2026-11-23T04:00:00+00:00"):
    uri = write_night(str(workspace), run, *revisions)
    for manifest in read_manifests(uri):
        place = storage.join(uri, "manifests", f"manifest-{manifest.revision}.json")
        storage.write_json(place, storage.read_json(place) | {"closed_at": closed_at})
    return uri


def run(workspace):
    found = due(str(workspace), AGE, at=TODAY)
    return [prune(str(workspace), one, by="ada", older_than="90d") for one in found]


def test_nights_older_than_that_are_due_the_oldest_first_and_nothing_is_touched(tmp_path):
    night(tmp_path, "b", [row("x", 0.1), row("y", 0.1, category="ring")])
    night(tmp_path, "a", [row("x", 0.1)], closed_at="2026-11-24T04:00:00+00:00")
    night(tmp_path, "new", [row("x", 0.1)], closed_at="2027-01-01T04:00:00+00:00")
    storage.write(f"{tmp_path}/nights/open/plans/plan-1.parquet", b"not closed")
    before = storage.list_files(str(tmp_path))
    found = due(str(tmp_path), AGE, at=TODAY)
    assert [(one.run, one.shards) for one in found] == [("b", 2), ("a", 1)]
    sizes = {file.uri: file.num_bytes for file in before if "/nights/b/scores/" in file.uri}
    assert found[0].bytes_before == sum(sizes.values())
    assert storage.list_files(str(tmp_path)) == before


def test_maps_go_and_everything_else_of_the_rows_stays(tmp_path):
    rows = [row("x", 0.1, attributes={"line": "L1"}), row("y", 0.9), failed("z")]
    uri = night(tmp_path, "a", rows, [row("x", 0.2)])
    before = open_night(uri).to_table()
    (done,) = run(tmp_path)
    after = open_night(uri).to_table()
    kept = [name for name in before.column_names if name not in schema.MAP_COLUMNS]
    assert after.select(kept).equals(before.select(kept))
    assert all(after[name].null_count == after.num_rows for name in schema.MAP_COLUMNS)
    assert after.schema.equals(before.schema)
    assert (done.shards, done.revisions) == (2, 2)
    assert 0 < done.bytes_after < done.bytes_before


def test_the_file_and_a_record_say_who_did_it_and_the_manifests_are_as_they_were(tmp_path):
    uri = night(tmp_path, "a", [row("x", 0.1)])
    manifest = storage.read(f"{uri}/manifests/manifest-1.json")
    (done,) = run(tmp_path)
    shard = tmp_path / "nights/a/scores/category=plate/shard-1.parquet"
    facts = pq.read_metadata(shard).metadata
    assert facts[b"schema"] == b"mrkd.scores"
    assert facts[b"pruned_at"].startswith(b"20")
    record = storage.read_json(f"{uri}/prunings/1.json")
    assert (record["by"], record["older_than"], record["shards"]) == ("ada", "90d", 1)
    assert record["bytes_after"] == shard.stat().st_size == done.bytes_after
    assert storage.read(f"{uri}/manifests/manifest-1.json") == manifest


def test_a_night_is_pruned_once_and_a_late_revision_of_it_later(tmp_path):
    uri = night(tmp_path, "a", [row("x", 0.1)])
    assert len(run(tmp_path)) == 1
    assert run(tmp_path) == []
    night(tmp_path, "a", [row("x", 0.1)], [row("late", 0.1)])
    prune_again = due(str(tmp_path), AGE, at=TODAY)
    assert [one.shards for one in prune_again] == [1]
    run(tmp_path)
    assert [file.uri for file in storage.list_files(f"{uri}/prunings")] == [
        f"{uri}/prunings/{n}.json" for n in (1, 2)
    ]


def test_what_was_ended_in_between_is_gone_on_with(tmp_path):
    uri = night(tmp_path, "a", [row("x", 0.1), row("y", 0.1, category="ring")])
    (one,) = due(str(tmp_path), AGE, at=TODAY)
    ring = f"{uri}/scores/category=ring/shard-1.parquet"
    whole = storage.read(ring)
    storage.write(ring, b"damaged")
    with pytest.raises(ArtefactError, match="not a whole Parquet file"):
        prune(str(tmp_path), one, by="ada", older_than="90d")
    storage.write(ring, whole)
    (done,) = run(tmp_path)
    assert done.shards == 1  # the other one had gone before
    assert open_night(uri).to_table()["anomaly_map"].null_count == 2


def test_a_night_at_work_is_left_alone(tmp_path):
    uri = night(tmp_path, "a", [row("x", 0.1)])
    with Lease(f"{uri}/lease.json"), pytest.raises(NightError, match="is held by"):
        run(tmp_path)
    assert open_night(uri).to_table()["anomaly_map"].null_count == 0


def test_a_record_that_is_none_is_named(tmp_path):
    uri = night(tmp_path, "a", [row("x", 0.1)])
    storage.write_json(f"{uri}/prunings/1.json", {"run": "a", "what": 1})
    with pytest.raises(ArtefactError, match=r"prunings/1.json is not a pruning's record"):
        due(str(tmp_path), AGE, at=TODAY)
