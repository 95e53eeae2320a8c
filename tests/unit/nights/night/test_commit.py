import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mrkd import storage
from mrkd.nights.manifest import open_night
from mrkd.storage import schema
from tests.support.nights import files, planned, run, score


def test_equal_rows_are_committed_once(night, settings):
    _, (shard, *_) = planned(night, settings)
    first = night.commit(shard, score(shard))
    later = score(shard).replace_schema_metadata({"scored_at": "another time"})
    again = night.commit(shard, later)
    assert (first.status, again.status) == ("written", "already")
    assert first.counts == again.counts


def test_of_unequal_rows_the_stored_ones_stand(night, settings):
    _, (shard, *_) = planned(night, settings)
    night.commit(shard, score(shard))
    conflict = night.commit(shard, shard.error_table("unreachable", "a fault: start again"))
    assert conflict.status == "conflict"
    assert "unreachable" not in conflict.counts
    run(night, settings)
    assert set(open_night(night.uri).to_table()["error_kind"].to_pylist()) == {None}


def test_chunks_do_not_matter_to_what_rows_are(night, settings):
    _, (shard, *_) = planned(night, settings)
    table = score(shard)
    night.commit(shard, table)
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    chunked = chunked.replace_schema_metadata({"scored_at": "another time"})
    assert night.commit(shard, chunked).status == "already"


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.slice(1),
        lambda table: pa.concat_tables([table, table]),
        lambda table: table.take(pa.array(range(table.num_rows))[::-1]),
        lambda table: table.drop_columns(["anomaly_map"]),
    ],
)
def test_rows_that_are_not_the_shards_are_refused(night, settings, change):
    _, shards = planned(night, settings)
    with pytest.raises(ValueError, match=shards[-2].id):
        night.commit(shards[-2], change(score(shards[-2])))
    assert files(night) == ["plans/plan-1.parquet"]


def test_rows_of_another_revision_are_refused(night, settings):
    _, (shard, *_) = planned(night, settings)
    table = score(shard)
    other = table.set_column(1, schema.SCORES.field("revision"), pa.array([2, 2], pa.int32()))
    with pytest.raises(ValueError, match="revision"):
        night.commit(shard, other)


def test_a_night_and_its_shards_travel_to_workers(night, settings):
    _, shards = planned(night, settings)
    there, shard = pickle.loads(pickle.dumps((night, shards[0])))
    assert there.commit(shard, score(shard)).status == "written"
    assert len(night.todo(1)) == 3


def test_a_shards_file_says_of_itself_what_it_is(night, settings):
    _, (shard, *_) = planned(night, settings)
    night.commit(shard, score(shard))
    _, path = storage.open_uri(storage.join(night.uri, "scores", shard.file))
    facts = pq.read_metadata(path).metadata
    assert facts[b"category"] == b"0012"
    assert facts[b"shard"] == shard.id.encode()
    assert sum(json.loads(facts[b"counts"]).values()) == 2
    assert {b"scored_at", b"schema_version", b"content_sha256"} <= set(facts)
