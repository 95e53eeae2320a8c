"""Placement on GPUs that are only Ray's word: the models compute on the CPU."""

import json
import subprocess
import sys

import pytest
import torch

from mrkd.model import artefact
from mrkd.model.registry import promotions
from tests.support.gpu_calls import devices_by_process, most_at_once, seen_in
from tests.support.models import small_config

SCRIPT = """
import json, sys
from pathlib import Path
import ray
from mrkd.config import ScoreConfig, TrainConfig
from mrkd.runs import score, train
from mrkd.runs.on_ray import cluster
from mrkd.runs.on_ray.slots import run_each
from mrkd.runs.on_ray.executor import OnRay
from mrkd.runs.resources import Node, worker_resources
from tests.support.crowd import meet

folder, night, fleet = Path(sys.argv[1]), *sys.argv[2:]

def most_at_once(found, gpus, number, crowd):
    ask = worker_resources(found, cpus=0, gpus=gpus, device="cpu", num_workers=number)
    mine = folder / str(gpus)
    mine.mkdir()
    calls = {str(n): (mine, crowd) for n in range(number)}
    return max(one.result for one in run_each(meet, calls, ask, max_failures=0))

class Holder:
    def ready(self):
        pass

ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False)
whole = most_at_once(cluster.nodes(), 1.0, 3, 2)
trained = train.run(TrainConfig.from_toml(fleet), OnRay())
# From here on as with a single GPU.
holder = ray.remote(num_cpus=0, num_gpus=1)(Holder).remote()
ray.get(holder.ready.remote())
scored = score.run(ScoreConfig.from_toml(night), OnRay())
quarter = most_at_once([Node(2.0, 1.0)], 0.25, 5, 4)
print(json.dumps({
    "whole": whole, "quarter": quarter, "train": trained.to_dict(), "score": scored.to_dict()
}))
"""


@pytest.fixture(scope="module")
def seen(plant, archive, tmp_path_factory):
    """What was seen on one Ray of two GPUs, and the fleet's workspace."""
    folder = tmp_path_factory.mktemp("gpus")
    # Two scorers by name: Ray counts two GPUs, of which one is taken.
    values = {"pool.gpus_per_scorer": 0.5, "pool.device": "cpu", "pool.scorers": 2}
    night = plant.score_config(archive, "gpus", **values)
    values = {"fleet.gpus_per_worker": 0.25, "data.categories": ["plate", "ring"]}
    fleet = small_config(str(plant.root), str(folder / "workspace"), **values)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder, night.to_toml(), fleet.to_toml()],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), folder / "workspace"


def test_scorers_that_share_a_gpu_leave_the_cpus_to_the_readers(seen, calm):
    """Two scorers that took a CPU each would leave a node of two CPUs none to read with."""
    assert seen[0]["score"]["counts"] == dict(calm.counts)


@pytest.mark.parametrize(("share", "crowd"), [("whole", 2), ("quarter", 4)])
def test_as_many_categories_train_at_once_as_the_gpus_hold(seen, share, crowd):
    """Of three at a whole GPU one waits for two; of five at a quarter one waits for four."""
    assert seen[0][share] == crowd


def test_a_fleet_trains_on_fractions_of_a_gpu(seen):
    found, workspace = seen
    assert found["train"]["counts"]["trained"] == 2
    record = json.loads((workspace / "fleets" / "test" / "categories" / "ring.json").read_text())
    assert record["gpus"] == 0.25
    assert 0 < record["gpu_seconds"]["busy"] <= record["gpu_seconds"]["held"]


def test_images_that_are_read_ahead_of_a_gpu_train_the_same_bits(seen, plant):
    """A slot gets its images from a task beside it; a fleet without GPUs reads them itself."""
    record = json.loads((seen[1] / "fleets" / "test" / "categories" / "ring.json").read_text())
    took = record["seconds"]
    assert took["read"] + took["decode"] > 0
    for name in ("plate", "ring"):
        ours, theirs = (
            artefact.read_card(str(root), name, promotions.champion(str(root), name).version)
            for root in (seen[1], plant.workspace)
        )
        assert ours.version == theirs.version
        assert ours.weights_digest == theirs.weights_digest


SLOTS = """
import json, sys, time
from pathlib import Path
import ray
from mrkd.config import ScoreConfig, TrainConfig
from mrkd.errors import MrkdError
from mrkd.runs import score, train
from mrkd.runs.on_ray.executor import OnRay
from mrkd.runs.on_ray.slots import run_each
from mrkd.runs.resources import Resources
from tests.support.gpu_calls import work

folder, fleet, night = Path(sys.argv[1]), *sys.argv[2:]
ray.init(address="local", num_cpus=6, num_gpus=4, include_dashboard=False)
for share, number in ((0.25, 70), (0.5, 70), (1.0, 60)):
    mine = folder / str(share)
    mine.mkdir()
    calls = {str(n): (mine, n) for n in range(number)}
    ends = list(run_each(work, calls, Resources(1, share, device="cpu"), max_failures=2))
    assert sum(not one.error for one in ends) == number
    assert {one.number for one in ends if not one.error} == {1, 2}
refusals = []
for run, config in (
    (train.run, TrainConfig.from_toml(fleet)),
    (score.run, ScoreConfig.from_toml(night)),
):
    began = time.monotonic()
    try:
        run(config, OnRay())
    except MrkdError as error:
        refusals.append([error.exit_code, str(error), time.monotonic() - began])
(folder / "refusals.json").write_text(json.dumps(refusals))
"""


@pytest.fixture(scope="module")
def slots(plant, archive, tmp_path_factory):
    """What 200 calls saw, by share of a GPU; and how runs ended that compute on a GPU."""
    folder = tmp_path_factory.mktemp("slots")
    values = {"data.categories": ["plate", "ring"], "train.device": "auto"}
    fleet = small_config(str(plant.root), str(folder / "workspace"), **values)
    night = plant.score_config(archive, "no-cuda")
    done = subprocess.run(
        [sys.executable, "-c", SLOTS, folder, fleet.to_toml(), night.to_toml()],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = {share: seen_in(folder / str(share)) for share in (0.25, 0.5, 1.0)}
    return seen, json.loads((folder / "refusals.json").read_text())


@pytest.mark.parametrize(("share", "number"), [(0.25, 70), (0.5, 70), (1.0, 60)])
def test_a_process_keeps_its_gpu_for_life_and_no_slot_holds_two_calls(slots, share, number):
    """Some calls kill their process, some fail as a device does; all are done."""
    seen = slots[0][share]
    assert len(seen) >= number
    assert {one.devices for one in seen} <= set("0123")
    assert {len(devices) for devices in devices_by_process(seen).values()} == {1}
    assert most_at_once(seen, "pid") == 1
    assert most_at_once(seen, "devices") <= 1 / share


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that works")
def test_a_gpu_without_cuda_ends_a_run_at_once_with_both_versions(slots):
    """Ray gives a GPU that this machine does not have: nothing is computed on a CPU instead."""
    refusals = slots[1]
    assert len(refusals) == 2
    for exit_code, message, seconds in refusals:
        assert exit_code == 1
        assert "this process holds GPU" in message
        assert f"PyTorch {torch.__version__}" in message
        assert "the NVIDIA driver is" in message
        assert seconds < 60  # 20 on an idle machine
