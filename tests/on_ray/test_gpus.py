"""Placement on GPUs that are only Ray's word: the models compute on the CPU."""

import json
import subprocess
import sys

SCRIPT = """
import sys, ray
from mrkd.config import ScoreConfig
from mrkd.on_ray import score

ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False)
print(score.run(ScoreConfig.from_toml(sys.argv[1])).to_json())
"""


def test_scorers_that_share_a_gpu_leave_the_cpus_to_the_readers(plant, archive, calm):
    """Two scorers that took a CPU each would leave a node of two CPUs none to read with."""
    values = {"pool.gpus_per_scorer": 0.5, "pool.device": "cpu"}
    config = plant.score_config(archive, "gpus", **values)
    night = subprocess.run(
        [sys.executable, "-c", SCRIPT, config.to_toml()],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    assert json.loads(night.stdout.splitlines()[-1])["counts"] == dict(calm.counts)
