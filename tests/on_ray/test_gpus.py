"""Placement on GPUs that are only Ray's word: the models compute on the CPU."""

import json
import subprocess
import sys

import pytest

from tests.support.models import small_config

SCRIPT = """
import sys, ray
from mrkd.config import ScoreConfig, TrainConfig
from mrkd.runs import score
from mrkd.runs import train

verb, num_gpus, text = sys.argv[1:]
ray.init(address="local", num_cpus=2, num_gpus=int(num_gpus), include_dashboard=False)
run, config = {"score": (score.run, ScoreConfig), "train": (train.run, TrainConfig)}[verb]
print(run(config.from_toml(text)).to_json())
"""

CROWD = """
import sys
from pathlib import Path
import ray
from mrkd.runs.on_ray import cluster
from mrkd.runs.on_ray.category_tasks import run_each
from tests.support.crowd import meet

folder, gpus = Path(sys.argv[1]), float(sys.argv[2])
num_gpus, number, crowd = map(int, sys.argv[3:])
ray.init(address="local", num_cpus=2, num_gpus=num_gpus, include_dashboard=False)
found = cluster.nodes()
ask = resources.worker_resources(found, cpus=0, gpus=gpus, device="cpu", num_workers=number)
calls = {str(n): (folder, crowd) for n in range(number)}
print(max(one.result for one in run_each(meet, calls, ask, max_failures=0)))
"""


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    return done.stdout.splitlines()[-1]


def test_scorers_that_share_a_gpu_leave_the_cpus_to_the_readers(plant, archive, calm):
    """Two scorers that took a CPU each would leave a node of two CPUs none to read with."""
    values = {"pool.gpus_per_scorer": 0.5, "pool.device": "cpu"}
    config = plant.score_config(archive, "gpus", **values)
    counts = json.loads(run(SCRIPT, "score", 1, config.to_toml()))["counts"]
    assert counts == dict(calm.counts)


@pytest.mark.parametrize(("gpus", "num_gpus", "number", "crowd"), [(1, 2, 3, 2), (0.25, 1, 5, 4)])
def test_as_many_categories_train_at_once_as_the_gpus_hold(tmp_path, gpus, num_gpus, number, crowd):
    """Of three at a whole GPU one waits for two; of five at a quarter one waits for four."""
    assert int(run(CROWD, tmp_path, gpus, num_gpus, number, crowd)) == crowd


def test_a_fleet_trains_on_fractions_of_a_gpu(plant, tmp_path):
    values = {"fleet.gpus_per_worker": 0.25, "data.categories": ["plate", "ring"]}
    config = small_config(str(plant.root), str(tmp_path), **values)
    assert json.loads(run(SCRIPT, "train", 2, config.to_toml()))["counts"]["trained"] == 2
    (record,) = (tmp_path / "fleets" / "test" / "categories").glob("ring.json")
    assert json.loads(record.read_text())["gpus"] == 0.25
