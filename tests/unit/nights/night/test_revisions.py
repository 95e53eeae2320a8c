import pytest

from mrkd import storage
from mrkd.errors import ConfigError, NightError, StorageError
from mrkd.nights.archive import UNMATCHED
from mrkd.nights.manifest import Manifest, Superseded, open_night
from mrkd.nights.night import Night
from mrkd.nights.shards import Pin
from tests.support.nights import add, files, kinds, pins, planned, run, score, touch, uris
from tests.support.tars import tar_bytes


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
    with pytest.raises(ConfigError, match=r"the archive is .*empty.*\.png"):
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


def test_a_plan_that_vanished_is_named(night, settings):
    with pytest.raises(StorageError, match=r"plan-3\.parquet"):
        night.todo(3)


def test_rows_with_errors_of_a_kind_are_scored_again(night, settings, archive):
    (empty,) = add(archive, "plate/empty.png", content=b"")
    (new,) = add(archive, "new/1.png")
    run(night, settings)
    again = settings.with_values({"retry_errors": ["empty", "missing"]})
    for revision in (2, 3):
        run(night, again)
        manifest = Manifest.read(f"{night.uri}/_MANIFEST.json")
        assert (manifest.revision, manifest.rows) == (revision, 1)
        assert manifest.superseded == (Superseded(empty, revision - 1),)
    assert run(night, settings) == []
    assert sorted(uris(night)) == sorted(file.uri for file in storage.list_files(str(archive)))
    rows = {row["image_uri"]: row for row in open_night(night.uri).to_table().to_pylist()}
    assert (rows[empty]["revision"], rows[new]["revision"]) == (3, 1)


def test_a_category_that_has_its_model_by_now_is_scored_by_it(night, settings, archive):
    add(archive, "new/1.png", "new/2.png")
    run(night, settings)
    again = settings.with_values({"retry_errors": ["no_model"]})
    run(night, again, pins=lambda category: Pin("v2", 1, "resnet18-0123456789ab"))
    rows = open_night(night.uri).to_table(columns=["category", "error_kind", "model_version"])
    new = [row for row in rows.to_pylist() if row["category"] == "new"]
    assert [(row["error_kind"], row["model_version"]) for row in new] == [(None, "v2")] * 2


def test_an_image_that_is_new_and_to_be_retried_is_planned_once(night, settings, archive):
    (uri,) = add(archive, "plate/empty.png", content=b"")
    run(night, settings)
    add(archive, "plate/empty.png", content=b"image")
    run(night, settings.with_values({"retry_errors": ["empty"]}))
    assert Manifest.read(f"{night.uri}/_MANIFEST.json").rows == 1
    rows = {row["image_uri"]: row for row in open_night(night.uri).to_table().to_pylist()}
    assert rows[uri]["error_kind"] is None


def test_a_tar_that_could_not_be_read_gives_way_to_its_members(night, settings, folder):
    """The first start finds half of it; what was written over that has the same ETag."""
    place = folder / "archive" / "plate"
    whole = tar_bytes({"1.png": b"image", "2.png": b"image"})
    add(folder / "archive", "plate/x.tar", content=whole[:1024] + b"\xff" * (len(whole) - 1024))
    mtime = (place / "x.tar").stat().st_mtime_ns
    run(night, settings)
    before = kinds(night)
    tar = storage.join(str(place), "x.tar")
    assert before[tar] is not None
    add(folder / "archive", "plate/x.tar", content=whole)
    touch(folder / "archive", "plate/x.tar", mtime)
    run(night, settings.with_values({"retry_errors": [before[tar]]}))
    after = kinds(night)
    assert tar not in after
    assert {f"{tar}#1.png", f"{tar}#2.png"} <= after.keys()
    assert Superseded(tar, 1) in Manifest.read(f"{night.uri}/_MANIFEST.json").superseded
