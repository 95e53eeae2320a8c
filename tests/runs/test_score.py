import json
import shutil
import signal
import subprocess
import time

import pytest

from mrkd.errors import ArtefactError, ConfigError
from mrkd.nights.manifest import open_night
from mrkd.nights.night import Night
from mrkd.runs import score
from mrkd.storage.schema import read_map
from tests.support.models import MODEL
from tests.support.night_runs import command, environment, events
from tests.support.plants import HERE
from tests.support.under_fire import TOP

NUM_IMAGES = 24


def rows(plant, run):
    return open_night(str(plant.night(run))).to_table().sort_by("image_uri").to_pylist()


def shards(plant, run):
    return {p: p.stat().st_mtime_ns for p in plant.night(run).glob("scores/*/*.parquet")}


def test_each_image_becomes_one_row_and_nothing_new_is_no_work(plant, archive, calm):
    assert (calm.exit_code, calm.state) == (0, "done")
    assert calm.counts["images"] == NUM_IMAGES == calm.counts["ok"] + calm.counts["nok"]
    assert json.loads((plant.night("calm") / "summary.json").read_text()) == calm.to_dict()
    found = rows(plant, "calm")
    uris = [row["image_uri"] for row in found]
    assert uris == [f"file://{path}" for path in sorted(archive.rglob("*.png"))]
    assert found[0]["teacher"].startswith(f"random:{MODEL.backbone}-")
    assert read_map(found[0]).shape == (64, 64)

    before = shards(plant, "calm")
    again = score.run(plant.score_config(archive, "calm"), HERE)
    assert (again.exit_code, again.counts["images"]) == (0, 0)
    assert shards(plant, "calm") == before
    # Of the night as a whole the first start's verdict goes on to stand.
    assert json.loads((plant.night("calm") / "summary.json").read_text()) == calm.to_dict()


def test_what_cannot_be_scored_is_an_error_row_and_the_share_of_them_decides(plant, own_archive):
    whole = (own_archive / "plate" / "good-000.png").read_bytes()
    (own_archive / "unknown").mkdir()
    bad = {
        "plate/cut.png": (whole[:900], "truncated"),
        "plate/empty.png": (b"", "empty"),
        "ring/text.png": (b"not an image", "decode"),
        "unknown/part.png": (whole, "no_model"),
    }
    for key, (data, _) in bad.items():
        (own_archive / key).write_bytes(data)
    summary = score.run(plant.score_config(own_archive, "bad"), HERE)
    assert (summary.exit_code, summary.state) == (3, "partial")
    assert events(summary.reasons) == [
        f"4 of {NUM_IMAGES + 4} images have no score: decode 1, empty 1, no_model 1, truncated 1"
    ]
    told = json.loads((plant.night("bad") / "alerts.json").read_text())["alerts"]
    assert {one["kind"] for one in told} >= {"error_share"}
    assert {one["category"] for one in told if one["kind"] == "error_share"} == {
        "plate",
        "ring",
        "unknown",
    }
    assert summary.counts["alerts"] == len(told)
    found = {row["image_uri"]: row for row in rows(plant, "bad")}
    assert len(found) == NUM_IMAGES + 4
    for key, (_, kind) in bad.items():
        row = found[f"file://{own_archive}/{key}"]
        assert (row["error_kind"], row["image_score"], row["is_anomalous"]) == (kind, None, None)


def test_an_interrupted_night_goes_on_and_late_images_become_a_second_revision(plant, own_archive):
    config = plant.score_config(own_archive, "resumed", max_error_share=0.2)
    score.run(config, HERE)
    expected, committed = rows(plant, "resumed"), shards(plant, "resumed")
    # As a killed driver leaves it: plan and some shards, no manifest.
    night = plant.night("resumed")
    shutil.rmtree(night / "manifests")
    (night / "_MANIFEST.json").unlink()
    lost = sorted(committed)[::2]
    for path in lost:
        path.unlink()
    (own_archive / "ring" / "late.png").touch()

    summary = score.run(config, HERE)
    assert (summary.exit_code, summary.counts["images"]) == (0, NUM_IMAGES + 1)
    assert events(summary.reasons) == [f"1 of {NUM_IMAGES + 1} images have no score: empty 1"]
    kept = {path: time_ns for path, time_ns in committed.items() if path not in lost}
    assert kept.items() <= shards(plant, "resumed").items()
    found = rows(plant, "resumed")
    assert [row for row in found if row["revision"] == 1] == expected
    (late,) = (row for row in found if row["revision"] == 2)
    assert late["image_uri"] == f"file://{own_archive}/ring/late.png"


@pytest.fixture(scope="module")
def many(archive, tmp_path_factory):
    """Six copies of every image: a night of some seconds."""
    folder = tmp_path_factory.mktemp("many")
    for image in archive.rglob("*.png"):
        (folder / image.parent.name).mkdir(exist_ok=True)
        for number in range(6):
            shutil.copy(image, folder / image.parent.name / f"{number}-{image.name}")
    return folder


def test_a_night_that_is_told_to_end_leaves_a_verdict_and_goes_on(plant, many, tmp_path):
    undisturbed = score.run(plant.score_config(many, "undisturbed"), HERE)
    values = {"rows.shard_rows": 1, "executor": "in_process"}
    config = plant.score_config(many, "stopped", **values)
    driver = subprocess.Popen(
        command(config, tmp_path), cwd=TOP, env=environment(), stdout=subprocess.PIPE
    )
    until = time.monotonic() + 120
    while not shards(plant, "stopped") and time.monotonic() < until:
        time.sleep(0.02)
    driver.send_signal(signal.SIGTERM)
    out, _ = driver.communicate(timeout=120)
    verdict = json.loads(out.splitlines()[-1])
    assert (driver.returncode, verdict["exit_code"], verdict["state"]) == (1, 1, "failed")
    assert "was stopped: start it again" in verdict["reasons"][0]
    stored = json.loads((plant.night("stopped") / "summary.json").read_text())
    assert stored["reasons"] == verdict["reasons"]
    assert json.loads((plant.night("stopped") / "lease.json").read_text())["state"] == "released"
    committed = shards(plant, "stopped")
    assert 0 < len(committed) < 6 * NUM_IMAGES
    assert score.run(config, HERE).counts == undisturbed.counts
    assert committed.items() <= shards(plant, "stopped").items()
    assert rows(plant, "stopped") == rows(plant, "undisturbed")


def test_a_start_that_is_killed_leaves_no_summary_of_an_earlier_one(plant, archive, monkeypatch):
    summary = plant.night("killed") / "summary.json"
    summary.parent.mkdir(parents=True)
    summary.write_text('{"state": "done"}')

    def die(*_):
        raise ZeroDivisionError("as suddenly as by a SIGKILL")

    monkeypatch.setattr(Night, "revisions", die)
    with pytest.raises(ZeroDivisionError):
        score.run(plant.score_config(archive, "killed"), HERE)
    assert not summary.exists()


def test_a_damaged_model_fails_its_night_and_the_other_categories_are_scored(
    plant, archive, tmp_path
):
    workspace = tmp_path / "workspace"
    shutil.copytree(plant.workspace / "models", workspace / "models")
    shutil.copytree(plant.workspace / "teachers", workspace / "teachers")
    (weights,) = (workspace / "models" / "plate").glob("*/model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    config = plant.score_config(archive, "damaged", workspace=str(workspace))
    with pytest.raises(ArtefactError, match=r"model\.safetensors"):
        score.run(config, HERE)
    night = workspace / "nights" / "damaged"
    verdict = json.loads((night / "summary.json").read_text())
    assert (verdict["exit_code"], verdict["state"]) == (1, "failed")
    assert not list(night.glob("scores/category=plate/*"))
    assert len(list(night.glob("scores/category=ring/*"))) == 3
    assert not (night / "_MANIFEST.json").exists()


def test_a_place_that_holds_nothing_is_refused_before_anything_is_written(plant, archive, tmp_path):
    with pytest.raises(ConfigError, match="no file exists at or below"):
        score.run(plant.score_config(tmp_path / "absent", "refused"), HERE)
    assert not plant.night("refused").exists()
    with pytest.raises(ConfigError, match="no model exists in workspace"):
        score.run(plant.score_config(archive, "refused", workspace=str(tmp_path / "empty")), HERE)
    assert not (tmp_path / "empty").exists()


def test_alerts_that_cannot_be_told_are_a_reason_and_fail_no_night(plant, archive):
    place = plant.night("unheard") / "alerts.json"
    place.parent.mkdir(parents=True)
    place.write_text('{"alerts": [{"what": 1}]}')
    summary = score.run(plant.score_config(archive, "unheard"), HERE)
    assert (summary.exit_code, summary.counts["images"]) == (0, NUM_IMAGES)
    (reason,) = events(summary.reasons)
    assert reason.startswith("the rows and their page are stored, but no alert was sent: ")
    assert (plant.night("unheard") / "report.html").exists()
