import json
from pathlib import Path

import pytest

from mrkd.config import DataConfig, FleetConfig, TrainConfig
from mrkd.training.fleet_store import Fleet

TRAINED = {"status": "trained", "attempts": 1, "gate": {"state": "first"}}


@pytest.fixture
def config(tmp_path):
    # Forced: otherwise what an earlier start has trained is found by its inputs, not by records.
    return TrainConfig(
        str(tmp_path / "workspace"), "fleet-1", DataConfig("parts"), fleet=FleetConfig(force=True)
    )


def stored(config, *path):
    folder = f"{config.workspace}/fleets/fleet-1"
    return json.loads(Path(folder, *path).read_text())


def test_a_category_is_stored_the_moment_it_ends(config):
    fleet = Fleet(config)
    fleet.begin()
    fleet.end("cap", TRAINED)
    assert stored(config, "categories", "cap.json") == {**TRAINED, "category": "cap"}
    assert stored(config, "fleet.json")["state"] == "running"


def test_a_closed_fleet_says_when_and_with_which_config(config):
    fleet = Fleet(config)
    fleet.begin()
    fleet.close("done")
    found = stored(config, "fleet.json")
    assert (found["state"], found["root"]) == ("done", "parts")
    assert found["started_at"] <= found["finished_at"]
    assert TrainConfig.from_dict(found["config"]) == config


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_start_after_one_that_was_ended_knows_what_that_had_trained(config, how):
    first = Fleet(config)
    assert first.begin() == {}
    first.end("cap", TRAINED)
    first.end("nut", {"status": "failed", "attempts": 1, "error": "no image"})
    if how == "stopped":
        first.close("stopped")
    second = Fleet(config)
    assert second.begin() == {"cap": {**TRAINED, "category": "cap"}}
    assert second.records == {}


def test_a_start_after_one_that_ended_begins_anew_and_takes_its_verdict_away(config, tmp_path):
    first = Fleet(config)
    first.begin()
    first.end("cap", TRAINED)
    first.close("done")
    folder = tmp_path / "workspace" / "fleets" / "fleet-1"
    (folder / "summary.json").write_text("{}")
    assert Fleet(config).begin() == {}
    assert not (folder / "summary.json").exists()
    assert not list((folder / "categories").glob("*.json"))


def test_counts_and_failures_are_of_what_has_ended(config):
    fleet = Fleet(config)
    fleet.begin()
    fleet.end("cap", TRAINED)
    fleet.end("bolt", {**TRAINED, "gate": {"state": "held"}})
    fleet.end("nut", {"status": "failed", "attempts": 2, "error": "no image"})
    fleet.end("cog", {"status": "not_started", "attempts": 0, "reason": "stopped"})
    assert fleet.counts == {
        "categories": 4,
        "trained": 2,
        "up_to_date": 0,
        "failed": 1,
        "not_started": 1,
        "held": 1,
    }
    assert fleet.failures == {"nut": "no image"}


def test_a_traceback_is_kept_by_attempt(config):
    fleet = Fleet(config)
    uri = fleet.store_traceback("nut", 2, "Traceback")
    assert uri.endswith("fleets/fleet-1/tracebacks/nut-2.txt")
