import pyarrow as pa
import pytest

from mrkd import storage
from mrkd.errors import NightError
from mrkd.nights.manifest import Manifest, count_rows, open_night, read_manifests
from mrkd.storage import schema
from tests.support.nights import add, files, pins, planned, run, score, uris


def test_a_manifest_names_shards_pins_and_config(night, settings):
    run(night, settings)
    manifest = Manifest.read(f"{night.uri}/_MANIFEST.json")
    first = manifest.shards[0]
    assert (first.category, first.rows) == ("0012", 2)
    assert (first.first_uri[-10:], first.last_uri[-10:]) == ("0012/a.png", "0012/b.png")
    assert manifest.pins == {"0012": pins("0012"), "plate": pins("plate")}
    assert manifest.config == settings.to_dict()
    assert manifest.superseded == ()
    assert manifest.error_share == 0


def test_a_revision_with_an_uncommitted_shard_is_not_closed(night, settings):
    revision, shards = planned(night, settings)
    for shard in shards[1:]:
        night.commit(shard, score(shard))
    with pytest.raises(NightError, match=f"lacks 1 of 4 shards, the first {shards[0].file}"):
        night.close(revision)
    assert "manifests/manifest-1.json" not in files(night)


def test_a_shard_that_lost_rows_is_found_when_closing(night, settings):
    revision, shards = planned(night, settings)
    for shard in shards:
        night.commit(shard, score(shard))
    uri = storage.join(night.uri, "scores", shards[1].file)
    storage.write(uri, schema.to_parquet(schema.from_parquet(storage.read(uri)).slice(1)))
    with pytest.raises(NightError, match=f"{shards[1].file} has 2 rows for 3 images"):
        night.close(revision)


@pytest.mark.parametrize("data", [b"", b"half a file", schema.to_parquet(pa.table({"a": [1]}))])
def test_a_damaged_shard_is_found_when_closing(night, settings, data):
    revision, shards = planned(night, settings)
    for shard in shards:
        night.commit(shard, score(shard))
    storage.write(storage.join(night.uri, "scores", shards[1].file), data)
    with pytest.raises(NightError, match=f"{shards[1].file} cannot be read.*delete the file"):
        night.close(revision)
    storage.delete(storage.join(night.uri, "scores", shards[1].file))
    assert [commit.status for commit in run(night, settings)] == ["written"]


def test_rows_that_no_plan_knows_keep_a_revision_open(night, settings):
    revision, shards = planned(night, settings)
    for shard in shards:
        night.commit(shard, score(shard))
    storage.write(f"{night.uri}/scores/category=plate/copy.parquet", b"")
    storage.write(f"{night.uri}/scores/category=plate/.nfs0001", b"")
    with pytest.raises(NightError, match=r"holds files of no plan, 1, .*copy\.parquet"):
        night.close(revision)


def test_the_copy_of_a_manifest_is_mended_and_never_falls_behind(night, settings, archive):
    run(night, settings)
    storage.delete(f"{night.uri}/_MANIFEST.json")
    run(night, settings)
    assert storage.read_json(f"{night.uri}/_MANIFEST.json")["revision"] == 1
    add(archive, "ring/1.png")
    run(night, settings)
    assert night.close(1).revision == 1
    assert storage.read_json(f"{night.uri}/_MANIFEST.json")["revision"] == 2


def test_a_closed_revision_is_never_changed(night, settings):
    run(night, settings)
    uri = f"{night.uri}/manifests/manifest-1.json"
    before = storage.read(uri)
    night.close(1)
    assert storage.read(uri) == before


def test_manifests_that_were_lost_are_written_again_in_order(night, settings, archive):
    run(night, settings)
    add(archive, "ring/1.png")
    run(night, settings)
    storage.delete(f"{night.uri}/manifests/manifest-1.json")
    with pytest.raises(NightError, match="lacks a manifest: start its run again"):
        open_night(night.uri)
    storage.delete(f"{night.uri}/manifests/manifest-2.json")
    with pytest.raises(NightError, match="close the revisions before 2 first"):
        night.close(2)
    assert run(night, settings) == []
    assert len(uris(night)) == 10


def test_the_rows_of_some_revisions_are_counted_without_those_that_they_supersede(
    night, settings, archive
):
    add(archive, "plate/3.png", content=b"")
    run(night, settings)
    add(archive, "plate/3.png", "plate/late.png", content=b"whole")
    run(night, settings)
    first, second = read_manifests(night.uri)
    assert count_rows(night.uri, []) == {}
    assert count_rows(night.uri, [first]) == first.counts
    assert (first.rows, second.rows) == (9, 2)
    assert first.counts["empty"] == 1
    both = count_rows(night.uri, [first, second])
    assert both["empty"] == 0
    assert both.total() == 10
