"""What a night reads, refuses and tells beside its rows."""

import shutil
import tarfile
from collections import Counter

import pyarrow.dataset
import pytest

from mrkd import storage
from mrkd.errors import ConfigError
from mrkd.nights import model_versions
from mrkd.nights.manifest import open_night
from mrkd.nights.night import Night
from mrkd.runs import score
from tests.support.night_runs import events
from tests.support.plants import HERE

NUM_IMAGES = 24


def rows(plant, run):
    """By category and name."""
    found = open_night(str(plant.night(run))).to_table().to_pylist()
    return {(row["category"], row["image_uri"].rpartition("/")[2]): row for row in found}


@pytest.fixture
def tars(archive, tmp_path):
    """The calm night's images: those of plates in two tars, in no order, rings by themselves."""
    folder = tmp_path / "tars"
    shutil.copytree(archive / "ring", folder / "ring")
    (folder / "plate").mkdir()
    images = sorted((archive / "plate").glob("*.png"), key=lambda path: path.name[::-1])
    for name, members in {"a.tar": images[:7], "b.tar": images[7:]}.items():
        with tarfile.open(folder / "plate" / name, "w") as tar:
            for path in members:
                tar.add(path, f"line-1/{path.name}")
    return folder


def test_members_of_tars_have_the_rows_of_the_same_images_by_themselves(plant, tars, calm):
    with tarfile.open(tars / "plate" / "a.tar", "a") as tar:
        link = tarfile.TarInfo("line-1/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "good-000.png"
        tar.addfile(link)
    summary = score.run(plant.score_config(tars, "tars", max_error_share=0.1), HERE)
    assert (summary.exit_code, summary.counts["images"]) == (0, NUM_IMAGES + 1)
    found, expected = rows(plant, "tars"), rows(plant, "calm")
    assert found.pop(("plate", "link.png"))["error_kind"] == "unsupported"
    assert found.keys() == expected.keys()
    etags = {name: storage.stat(str(tars / "plate" / name)).etag for name in ("a.tar", "b.tar")}
    for key, row in found.items():
        if key[0] == "plate":
            tar, _, member = row["image_uri"].removeprefix(f"file://{tars}/plate/").partition("#")
            assert (member, row["image_etag"]) == (f"line-1/{key[1]}", etags[tar])
        for name in ("image_bytes", "image_score", "anomaly_map", "regions", "sharpness"):
            assert row[name] == expected[key][name], (key, name)


def plan(plant, config):
    """Stores the first plan, as a driver leaves it that was killed after it."""
    night = Night(config.workspace, config.run)
    drafted = night.draft(config, lambda category: model_versions.pin(config.workspace, category))
    storage.write(storage.join(night.uri, "plans", "plan-1.parquet"), drafted.to_parquet())


def kinds(plant, run, revision):
    """How many errors of each kind a revision has, also of images that were scored again."""
    found = pyarrow.dataset.dataset(str(plant.night(run) / "scores")).to_table()
    columns = [found["revision"].to_pylist(), found["error_kind"].to_pylist()]
    return Counter(kind for of, kind in zip(*columns, strict=True) if of == revision and kind)


def test_what_changes_after_the_plan_is_an_error_and_then_new(plant, tars):
    config = plant.score_config(tars, "moved", max_error_share=0.1)
    plan(plant, config)
    (tars / "ring" / "good-000.png").unlink()
    with tarfile.open(tars / "plate" / "b.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("notes.txt"))
    summary = score.run(config, HERE)
    # The changed tar's are planned again by this very start: each image is judged once.
    assert (summary.exit_code, summary.counts["images"]) == (0, NUM_IMAGES)
    assert events(summary.reasons) == [
        f"1 of {NUM_IMAGES} images have no score: missing 1",
        "1 files were passed over, as their names end in none of archive.suffixes and "
        "archive.tars: .txt 1",
    ]
    assert kinds(plant, "moved", 1) == {"missing": 1, "changed": 5}
    assert not kinds(plant, "moved", 2)


def test_what_a_start_took_is_stored_for_the_page(plant, archive, calm):
    facts = storage.read_json(str(plant.night("calm") / "night.json"))
    assert (facts["schema"], facts["run"]) == (1, "calm")
    (start,) = facts["starts"]  # a start with nothing new adds none
    assert (start["revision"], start["images"], start["attempts"]) == (1, NUM_IMAGES, 1)
    assert start["images_per_s"] > 0
    assert start["started_at"] <= start["finished_at"]
    assert set(start["seconds"]) == {"list", "read", "decode", "score", "commit", "close"}
    assert all(seconds > 0 for seconds in start["seconds"].values())
    assert start["requests"] == {}
    assert start["peak_rss_bytes"] > 100 * 2**20


def test_a_pool_that_no_cluster_holds_is_refused_before_the_plan_is_stored(plant, archive):
    config = plant.score_config(archive, "too-many", **{"pool.scorers": 99})
    with pytest.raises(ConfigError, match=r"99 scorers"):
        score.run(config, HERE)
    assert not list(plant.night("too-many").rglob("*.parquet"))


def test_a_template_that_cannot_be_read_is_refused_before_anything_is_written(plant, archive):
    with pytest.raises(ConfigError, match=r"archive\.template"):
        score.run(
            plant.score_config(archive, "no-fields", **{"archive.template": "{name}/{"}), HERE
        )
    assert not plant.night("no-fields").exists()


def test_images_out_of_reach_are_tried_again_then_rows_and_the_others_are_scored(
    plant, own_archive
):
    values = {"max_error_share": 0.1, "pool.max_shard_attempts": 2}
    config = plant.score_config(own_archive, "out-of-reach", **values)
    lost = own_archive / "plate" / "good-000.png"
    lost.unlink()
    lost.symlink_to("/proc/self/mem")  # is there, and gives an error of its device when read
    assert score.run(config, HERE).exit_code == 0
    row = rows(plant, "out-of-reach")["plate", lost.name]
    assert (row["error_kind"], row["image_score"]) == ("unreachable", None)
    assert kinds(plant, "out-of-reach", 1) == {"unreachable": 1}
    facts = storage.read_json(str(plant.night("out-of-reach") / "night.json"))
    # The first pass committed the other shards and does not count; the second came to nothing.
    assert facts["starts"][0]["attempts"] == 3


def test_a_workspace_that_cannot_take_the_facts_of_a_start_loses_them_alone(
    plant, archive, monkeypatch, caplog
):
    config = plant.score_config(archive, "no-facts")
    (plant.night("no-facts") / "night.json").mkdir(parents=True)
    assert score.run(config, HERE).exit_code == 0
    assert "night_facts_not_stored" in caplog.text
