"""Kill a worker, a controller, the raylet or the driver: the command goes on, to equal bits."""

import logging
import os
import random
from pathlib import Path

import pytest

from mrkd.runs import train
from tests.support.chaos import (
    CATEGORIES,
    long_fleet,
    make_categories,
    run_under_fire,
    weights_digests,
)
from tests.support.plants import HERE

log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return make_categories(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def undisturbed(root, tmp_path_factory) -> dict[str, str]:
    config = long_fleet(root, tmp_path_factory.mktemp("undisturbed") / "workspace")
    assert train.run(config, HERE).exit_code == 0
    found = weights_digests(config)
    assert set(found) == set(CATEGORIES)
    return found


def test_a_fleet_whose_processes_are_killed_ends_with_the_same_weights(root, undisturbed, tmp_path):
    config = long_fleet(root, tmp_path / "workspace")
    kinds = ["worker", "driver", "board", "stop", "raylet"]
    fire = run_under_fire(config, tmp_path / "run", kinds)
    assert fire.starts == 4
    ((code, verdict),) = fire.stopped
    assert (code, verdict["exit_code"], verdict["state"]) == (1, 1, "failed")
    assert verdict["counts"]["not_started"] > 0
    assert "start the fleet again to go on" in verdict["reasons"][0]
    assert weights_digests(config) == undisturbed
    assert not list((tmp_path / "workspace" / "fleets").rglob("*.safetensors"))


@pytest.mark.chaos
def test_a_group_whose_controller_and_worker_are_killed_ends_with_the_same_weights(root, tmp_path):
    values = {"fleet.workers_per_category": 2, "data.categories": ["a"], "train.max_steps": 150}
    calm = long_fleet(root, tmp_path / "calm", **values)
    run_under_fire(calm, tmp_path / "calm-run", [])
    hit = long_fleet(root, tmp_path / "hit", **values)
    run_under_fire(hit, tmp_path / "hit-run", ["worker", "controller"])
    assert weights_digests(hit) == weights_digests(calm)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_thirty_kills_at_random_moments_change_no_weight(root, undisturbed, tmp_path):
    seed = int(os.environ.get("MRKD_SEED") or random.SystemRandom().randrange(2**32))
    log.warning("MRKD_SEED=%d", seed)
    rng, killed, number = random.Random(seed), 0, 0
    while killed < 30:
        number += 1
        kinds = [
            rng.choice(["worker", "worker", "driver", "raylet", "board", "stop"]) for _ in range(6)
        ]
        config = long_fleet(root, tmp_path / f"workspace-{number}")
        run_under_fire(config, tmp_path / f"run-{number}", kinds, rng.randrange(2**32))
        assert weights_digests(config) == undisturbed, (seed, number, kinds)
        killed += len(kinds)
        log.warning("fleet %d: %s; %d kills", number, ", ".join(kinds), killed)
