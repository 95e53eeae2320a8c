"""The registry's commands on S3, where conditional puts decide who was first."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from mrkd import storage
from mrkd.errors import ArtefactError
from mrkd.model import artefact
from mrkd.model.calibration import at_rate
from mrkd.model.registry import promotions, queries
from tests.support.versions import gate, store_version


@pytest.fixture
def workspace(bucket):
    workspace = storage.join(bucket, "workspace")
    for version in ("aa", "bb"):
        store_version(workspace, version)
    promotions.promote(workspace, "plate", "aa", by="fleet", why="first")
    promotions.hold(workspace, "plate", "bb", by="fleet", reason="fell", gate=gate(0.7, "held"))
    return workspace


def test_a_list_finds_champion_and_held_version(workspace):
    rows = queries.list_versions(workspace)
    assert [(row["version"], row["state"]) for row in rows] == [("aa", "champion"), ("bb", "held")]


def test_a_hold_is_written_once(workspace):
    promotions.hold(workspace, "plate", "bb", by="another", reason="later", gate={})
    assert promotions.holds(workspace, "plate")["bb"].by == "fleet"


def test_of_thresholds_set_at_once_all_are_stored_and_one_decides(workspace):
    shelf = queries.shelf(workspace, "plate")

    def attempt(rate):
        rule = partial(at_rate, false_call_rate=rate)
        try:
            return queries.set_threshold(shelf, "aa", rule, by=f"for {rate}", why="test")[1]
        except ArtefactError:
            return None

    with ThreadPoolExecutor(4) as threads:
        won = [p for p in threads.map(attempt, (0.1, 0.15, 0.2, 0.25)) if p]
    assert [promotions.champion(workspace, "plate")] == won
    assert artefact.calibration_numbers(workspace, "plate", "aa") == [1, 2, 3, 4, 5]
