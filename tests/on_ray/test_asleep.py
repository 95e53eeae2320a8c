"""A night and a fleet that begin on a cluster whose nodes are asleep."""

import json
import shutil
import subprocess
import sys

import pytest

from mrkd.nights.manifest import open_night
from tests.support.clusters import sleeping
from tests.support.models import small_config

KINDS = {
    "gpu": {"resources": {"CPU": 2, "GPU": 1}, "max_workers": 2},
    "decode": {"resources": {"CPU": 3}, "max_workers": 3},
}


@pytest.fixture(scope="module")
def asleep(plant, archive, tmp_path_factory):
    """What was seen of a night and a fleet, and the fleet's workspace."""
    folder = tmp_path_factory.mktemp("asleep")
    values = {"pool.device": "cpu", "pool.gpus_per_scorer": 1.0, "rows.shard_rows": 2}
    large = folder / "archive"
    for copy in range(25):
        shutil.copytree(archive, large / str(copy))
    values["archive.template"] = "{copy}/{category}/{name}"
    night = plant.score_config(large, "asleep", **values)
    values = {"fleet.gpus_per_worker": 1.0, "data.categories": ["plate", "ring"]}
    fleet = small_config(str(plant.root), str(folder / "workspace"), **values)
    with sleeping(folder, KINDS) as head:
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.asleep", night.to_toml(), fleet.to_toml()],
            env=head.environment,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    sys.stderr.write(done.stdout)
    return json.loads(done.stdout.splitlines()[-1])


def test_a_night_wakes_every_gpu_node_and_has_every_row(plant, asleep, calm):
    assert asleep["score"]["counts"] == dict(calm.counts)
    assert asleep["score_nodes"]["2 CPU 1 GPU"] == [2, 2]
    assert open_night(str(plant.night("asleep"))).count_rows() == calm.counts["images"]


def test_a_fleet_wakes_every_gpu_node(asleep):
    assert asleep["train"]["counts"]["trained"] == 2
    assert asleep["train_nodes"]["2 CPU 1 GPU"][1] == 2


def test_all_nodes_leave_when_nothing_is_left_to_do(asleep):
    assert asleep["left"] == 0
