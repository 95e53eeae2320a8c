"""A deadline: being late is said early and once, and what is left then goes without maps."""

import json
import logging
import os
import time
from datetime import UTC, datetime, timedelta

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from mrkd.errors import ConfigError
from mrkd.nights import alerts
from mrkd.nights.manifest import open_night, read_manifests
from mrkd.nights.night import Night
from mrkd.reports import load_night_data
from mrkd.reports.night.page import night_page
from mrkd.runs import score
from mrkd.runs.shards.deadline import Deadline
from mrkd.storage.schema import MAP_COLUMNS
from tests.support.plants import HERE
from tests.support.webhooks import webhook

LATE = {"deadline.within": "1h", "deadline.degraded": "scores_only"}


@pytest.fixture
def foreseen(plant, tmp_path):
    """Makes a deadline that lies so many seconds ahead, and counts how often maps are dropped."""
    dropped = []

    def make(seconds, **values):
        config = plant.score_config(tmp_path, "night-1", **LATE | values)
        night = Night(str(tmp_path), "night-1")
        at = datetime.now(UTC) + timedelta(seconds=seconds)
        return Deadline(night, config, at, lambda: dropped.append(1))

    def told():
        return [one.kind for one in alerts.read(str(tmp_path / "nights" / "night-1"))]

    return make, told, dropped


def test_one_forecast_is_a_guess_and_two_in_a_row_are_told_once(foreseen):
    make, told, dropped = foreseen
    deadline = make(2)
    time.sleep(0.15)
    for left, rate in ((100, 1.0), (100, 1000.0), (100, 1.0)):
        deadline.look(left, rate)
    assert (told(), dropped) == ([], [])
    deadline.look(100, 1.0)
    assert (told(), len(dropped)) == (["late"], 1)
    deadline.look(100, 1000.0)  # what is dropped stays dropped, also by a board that began anew
    deadline.look(0, 1000.0)
    assert (told(), len(dropped)) == (["late"], 2)


def test_nothing_is_foreseen_before_the_workers_are_at_work(foreseen):
    make, told, dropped = foreseen
    deadline = make(3600)
    for _ in range(4):
        deadline.look(10**6, 0.1)
    assert (told(), dropped) == ([], [])


def test_a_deadline_that_has_passed_is_told_at_once_also_without_any_rate(foreseen, tmp_path):
    make, told, dropped = foreseen
    make(-5, **{"deadline.degraded": "never"}).look(7, 0.0)
    assert (told(), dropped) == (["late"], [])
    (alert,) = alerts.read(str(tmp_path / "nights" / "night-1"))
    assert alert.text.startswith("the night is not done, its deadline is ")
    assert alert.text.endswith(" UTC; 7 images are left")
    assert 5 <= alert.value < 60


def test_a_record_that_cannot_be_written_is_told_and_tried_again(foreseen, tmp_path, caplog):
    make, told, _ = foreseen
    place = tmp_path / "nights" / "night-1" / "alerts.json"
    place.mkdir(parents=True)
    deadline = make(-5)
    with caplog.at_level(logging.WARNING, "mrkd"):
        deadline.look(7, 1.0)
    assert "late_not_told" in caplog.text
    place.rmdir()
    deadline.look(7, 1.0)
    assert told() == ["late"]


@pytest.mark.parametrize(("span", "every_s"), [("6h", 30.0), ("20m", 5.0), ("10s", 0.5)])
def test_it_is_looked_at_more_often_where_it_is_near(plant, tmp_path, span, every_s):
    config = plant.score_config(tmp_path, "night-1", **{"deadline.within": span})
    assert Deadline(Night("w", "r"), config, datetime.now(UTC), print).every_s == every_s


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"deadline.within": "soon"}, r"deadline\.within is 'soon'"),
        ({"deadline.within": "0h"}, "no night ends at once"),
        ({"deadline.degraded": "scores_only"}, r"deadline\.within is not set"),
    ],
)
def test_a_deadline_that_is_none_is_refused(plant, tmp_path, values, message):
    with pytest.raises(ConfigError, match=message):
        plant.score_config(tmp_path, "night-1", **values)


def test_a_slow_night_says_so_while_it_runs_and_drops_the_maps_of_what_is_left(
    plant, tmp_path, monkeypatch
):
    """Images of 9 megapixels, of which one scorer's shards are decoded two at a time."""
    folder = tmp_path / "archive" / "plate"
    folder.mkdir(parents=True)
    row = np.arange(3000, dtype=np.uint16).astype(np.uint8)
    assert cv2.imwrite(str(folder / "000.png"), np.tile(row, (3000, 1)))
    for number in range(1, 64):
        os.link(folder / "000.png", folder / f"{number:03}.png")
    config = plant.score_config(
        tmp_path / "archive",
        "late",
        **{
            "deadline.within": "1s",
            "deadline.degraded": "scores_only",
            "pool.scorers": 1,
            "pool.gets_per_node": 1,
            "rows.unlike": "accept",
            "alerts.webhook": "MRKD_TEST_HOOK",
        },
    )
    with webhook() as hook:
        monkeypatch.setenv("MRKD_TEST_HOOK", hook.url)
        summary = score.run(config, HERE)
    night = Night(config.workspace, "late")
    (manifest,) = read_manifests(night.uri)
    deadline = night.planned_at(1) + timedelta(seconds=1)
    assert datetime.fromisoformat(manifest.closed_at) > deadline

    # Told by the webhook, once, before the night was done.
    (late,) = (one for one in alerts.read(night.uri) if one.kind == "late")
    told = [one["kind"] for content in hook.taken for one in content["alerts"]]
    assert told.count("late") == 1
    assert late.text.endswith(" images are left and get no maps")
    assert datetime.fromisoformat(late.sent_at) < datetime.fromisoformat(manifest.closed_at)

    # Every image has its row and score; the shards of what was left have no maps, and say so.
    table = open_night(night.uri).to_table()
    assert table.num_rows == 64
    assert table["image_score"].null_count == 0
    degraded = {shard.file for shard in manifest.shards if shard.degraded}
    assert degraded
    for shard in manifest.shards:
        file = pq.ParquetFile(plant.night("late") / "scores" / shard.file)
        facts, rows = file.schema_arrow.metadata, file.read()
        is_degraded = shard.file in degraded
        assert facts.get(b"degraded") == (b"scores_only" if is_degraded else None)
        nulls = {rows[name].null_count for name in MAP_COLUMNS}
        assert nulls == ({rows.num_rows} if is_degraded else {0})
    num_mapless = 4 * len(degraded)
    assert summary.exit_code == 0
    assert f"{num_mapless} images have no map, as the night was late" in summary.reasons
    assert any("after its deadline" in reason for reason in summary.reasons)
    assert json.loads((plant.night("late") / "summary.json").read_text()) == summary.to_dict()
    page = night_page(load_night_data(night.uri))
    assert f"{num_mapless} images have no map:" in page
