"""What a night would take, told before anything is started."""

import pytest

from mrkd import storage
from mrkd.model.registry import promotions
from mrkd.nights.cost_estimate import forecast_night
from tests.support.models import small_model
from tests.support.nights import add, config
from tests.support.versions import store_version


@pytest.fixture
def settings(tmp_path):
    """Two categories of which one has a model."""
    workspace = str(tmp_path / "workspace")
    store_version(workspace, "aa", "plate")
    promotions.promote(workspace, "plate", "aa", calibration=1, by="test", why="first")
    add(tmp_path / "archive", *[f"plate/{n}.png" for n in range(7)], "ring/0.png")
    return config(workspace, tmp_path / "archive")


def test_it_counts_by_category_and_stores_nothing(settings):
    before = storage.list_files(settings.workspace)
    found = forecast_night(settings)
    rows = {row.category: (row.num_images, row.shards, row.model_version) for row in found.rows}
    assert rows == {"plate": (7, 3, "aa"), "ring": (1, 1, None)}
    summary = found.summary("night-1")
    assert summary.counts["no_model"] == 1
    assert summary.counts["shard_bytes_in_memory"] == 3 * 3 * 64 * 64
    assert "timed here" in summary.reasons[0]
    assert storage.list_files(settings.workspace) == before


def test_seconds_and_money_come_from_earlier_nights(settings):
    starts = [
        {"started_at": f"2026-11-2{n}", "images": 100 * n, "images_per_s": 10.0 * n, "cpus": 2.0}
        for n in range(1, 5)
    ]
    uri = storage.join(settings.workspace, "nights", "earlier", "night.json")
    storage.write_json(uri, {"schema": 1, "starts": starts})
    found = forecast_night(settings.with_values({"price.cpu_hour": 3600.0}))
    assert found.rate.image_s == pytest.approx(30 / 900)  # the last three: 10 s each
    summary = found.summary("night-1")
    assert summary.counts["cpu_seconds"] == round(2 * 7 * 30 / 900)
    assert summary.reasons == [
        "seconds by the last 3 starts of the workspace's nights",
        "about 0.47 USD",
    ]


@pytest.mark.parametrize(
    ("within", "told"), [("1m", ["it would be done 0:00:10 after"]), ("2m", [])]
)
def test_a_deadline_that_it_would_miss_is_told_beforehand(settings, within, told):
    starts = [{"started_at": "2026-11-22", "images": 10, "images_per_s": 0.1, "cpus": 2.0}]
    uri = storage.join(settings.workspace, "nights", "earlier", "night.json")
    storage.write_json(uri, {"schema": 1, "starts": starts})
    found = forecast_night(settings.with_values({"deadline.within": within}))
    reasons = found.summary("night-1").reasons[1:]
    assert [reason.partition(" its ")[0] for reason in reasons] == told


@pytest.mark.parametrize(
    "record", [[], {"starts": None}, {"starts": [{"images_per_s": 1.0}]}, {"starts": ["soon"]}]
)
def test_a_record_that_is_none_of_a_night_is_left_out(settings, record):
    storage.write_json(storage.join(settings.workspace, "nights", "odd", "night.json"), record)
    assert "timed here" in forecast_night(settings).rate.source


def test_of_a_model_with_tiles_it_says_what_it_cannot_know(settings):
    tiled = small_model(tiles=64, overlap=16)
    store_version(settings.workspace, "bb", "plate", model=tiled)
    promotions.promote(settings.workspace, "plate", "bb", by="test", why="tiles")
    found = forecast_night(settings)
    assert found.summary("r").counts["shard_bytes_in_memory"] == settings.rows.shard_bytes
    assert "one tile an image" in found.rate.source


def test_a_night_with_nothing_to_score_takes_nothing(settings, tmp_path):
    add(tmp_path / "other", "ring/1.png")
    found = forecast_night(settings.with_values({"archive.uri": str(tmp_path / "other")}))
    assert found.rate is None
    assert found.summary("night-1").counts["images"] == 1
