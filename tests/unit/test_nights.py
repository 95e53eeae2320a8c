import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mrkd import schema, storage
from mrkd.archive import UNMATCHED
from mrkd.errors import ConfigError, NightError, StorageError
from mrkd.manifests import Manifest, open_night
from mrkd.nights import Night
from tests.support.nights import add, config, folder_in_memory, pins, run, score


@pytest.fixture
def folder():
    with folder_in_memory() as folder:
        yield folder


@pytest.fixture
def archive(folder):
    add(folder / "archive", *[f"plate/{n}.png" for n in range(7)], "0012/a.png", "0012/b.png")
    return folder / "archive"


@pytest.fixture
def night(folder):
    return Night(str(folder / "workspace"), "night-1")


@pytest.fixture
def settings(night, archive):
    return config(night.workspace, archive)


def planned(night, settings):
    """Stores the first plan; its revision and its shards."""
    revision = next(night.revisions(settings, pins))
    return revision, night.todo(revision)


def files(night):
    return [file.uri.removeprefix(night.uri + "/") for file in storage.list_files(night.uri)]


def uris(night):
    return sorted(open_night(night.uri).to_table()["image_uri"].to_pylist())


def test_a_night_has_one_row_for_each_image(night, settings, archive):
    commits = run(night, settings)
    assert [commit.status for commit in commits] == ["written"] * 4
    assert uris(night) == [file.uri for file in storage.list_files(str(archive))]
    manifest = Manifest.read(f"{night.uri}/manifests/manifest-1.json")
    assert manifest.rows == 9
    assert sum(manifest.counts.values()) == 9
    assert storage.read_json(f"{night.uri}/_MANIFEST.json") == storage.read_json(
        f"{night.uri}/manifests/manifest-1.json"
    )


def test_the_files_of_a_night_stand_where_the_contract_says(night, settings):
    run(night, settings)
    shards = Manifest.read(f"{night.uri}/_MANIFEST.json").shards
    assert {stored.file.partition("/")[0] for stored in shards} == {
        "category=0012",
        "category=plate",
    }
    assert files(night) == sorted(
        ["_MANIFEST.json", "lease.json", "manifests/manifest-1.json", "plans/plan-1.parquet"]
        + [f"scores/{stored.file}" for stored in shards]
    )


def test_the_plan_stands_before_anything_is_scored(night, settings):
    planned(night, settings)
    assert files(night) == ["plans/plan-1.parquet"]


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


def test_nothing_new_is_no_new_revision(night, settings):
    run(night, settings)
    before = files(night)
    assert run(night, settings) == []
    assert files(night) == before


def test_an_interrupted_night_goes_on_where_it_was(night, settings):
    revision, shards = planned(night, settings)
    night.commit(shards[1], score(shards[1]))
    assert [shard.id for shard in night.todo(revision)] == [
        shard.id for shard in (shards[0], *shards[2:])
    ]
    assert len(run(night, settings)) == 3
    assert len(uris(night)) == 9


def test_images_that_come_in_mid_night_wait_for_the_next_revision(night, settings, archive):
    revision, shards = planned(night, settings)
    add(archive, "plate/00.png", "ring/1.png")
    assert [shard.id for shard in night.todo(revision)] == [shard.id for shard in shards]
    assert len(run(night, settings)) == 4 + 2
    manifest = Manifest.read(f"{night.uri}/_MANIFEST.json")
    assert (manifest.revision, manifest.rows) == (2, 2)
    assert len(uris(night)) == 11


def test_a_promotion_in_mid_night_changes_nothing(night, settings):
    _, shards = planned(night, settings)

    def promoted(category):
        raise AssertionError(f"{category} was asked for again")

    run(night, settings, pins=promoted)
    rows = open_night(night.uri).to_table()
    assert set(rows["model_version"].to_pylist()) == {shard.pin.version for shard in shards}


def test_the_row_of_an_overwritten_image_is_superseded(night, settings, archive):
    run(night, settings)
    (uri,) = add(archive, "plate/3.png", content=b"another image")
    run(night, settings)
    manifest = Manifest.read(f"{night.uri}/_MANIFEST.json")
    assert [(row.image_uri, row.revision) for row in manifest.superseded] == [(uri, 1)]
    rows = open_night(night.uri).to_table()
    assert rows.num_rows == 9
    row = next(row for row in rows.to_pylist() if row["image_uri"] == uri)
    assert (row["revision"], row["image_bytes"]) == (2, 13)


def test_an_image_that_vanished_keeps_its_row(night, settings, archive):
    run(night, settings)
    (archive / "plate" / "3.png").unlink()
    assert run(night, settings) == []
    assert len(uris(night)) == 9


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


def test_asking_for_the_next_revision_before_this_one_is_scored_fails(night, settings):
    planned(night, settings)
    revisions = night.revisions(settings, pins)
    assert next(revisions) == 1
    with pytest.raises(NightError, match="lacks 4 of 4 shards"):
        next(revisions)


def test_two_starts_that_plan_at_once_score_the_same_plan(night, settings, archive):
    first, second = night.revisions(settings, pins), night.revisions(settings, pins)
    assert next(first) == 1
    add(archive, "plate/late.png")
    stored = storage.read(f"{night.uri}/plans/plan-1.parquet")
    # The second has listed before the first had stored its plan.
    draft = Night(night.workspace, "other").draft(settings, pins)
    assert not storage.write(
        f"{night.uri}/plans/plan-1.parquet", draft.to_parquet(), if_absent=True
    )
    assert next(second) == 1
    assert storage.read(f"{night.uri}/plans/plan-1.parquet") == stored


def test_another_config_does_not_go_on_with_a_night(night, settings):
    planned(night, settings)
    other = settings.with_values({"rows.map": "uint8"})
    with pytest.raises(ConfigError, match=r"rows\.map") as error:
        run(night, other)
    assert error.value.exit_code == 2


def test_an_archive_without_images_is_refused(night, settings, folder):
    with pytest.raises(ConfigError, match=r"archive\.uri is .*empty.*\.png"):
        run(night, settings.with_values({"archive.uri": str(folder / "empty")}))
    assert files(night) == ["lease.json"]


def test_images_that_cannot_be_scored_have_rows_too(night, settings, archive):
    add(archive, "new/1.png", "stray.png")
    add(archive, "plate/empty.png", content=b"")
    run(night, settings)
    manifest = Manifest.read(f"{night.uri}/_MANIFEST.json")
    assert manifest.counts["no_model"] == 2
    assert manifest.counts["empty"] == 1
    assert manifest.error_share == pytest.approx(3 / 12)
    rows = {row["category"]: row for row in open_night(night.uri).to_table().to_pylist()}
    assert "archive.template" in rows[UNMATCHED]["error_message"]
    assert "train it" in rows["new"]["error_message"]


def test_one_start_works_and_the_other_is_told_who_does(night, settings):
    with night.lease(), pytest.raises(NightError, match=r"lease\.json is held by"):
        run(night, settings)
    assert len(run(night, settings)) == 4


def test_a_run_is_a_name(folder):
    with pytest.raises(ConfigError, match=r"run '\.\./out' is not a name"):
        Night(str(folder), "../out")


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


def test_a_plan_that_vanished_is_named(night, settings):
    with pytest.raises(StorageError, match=r"plan-3\.parquet"):
        night.todo(3)
