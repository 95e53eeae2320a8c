import pytest
import ray

from mrkd.errors import ConfigError
from mrkd.runs import train
from mrkd.runs.on_ray import cluster
from mrkd.runs.resources import Node
from tests.support.models import small_config
from tests.support.rays import RAY


def test_a_ray_that_runs_already_is_used_and_left_running():
    with cluster.connect():
        assert cluster.nodes() == [Node(2)]
    assert ray.is_initialized()


def test_a_group_that_the_nodes_can_never_hold_is_refused_before_anything_is_written(
    plant, tmp_path
):
    values = {"fleet.workers_per_category": 5, "fleet.cpus_per_worker": 1.0}
    config = small_config(str(plant.root), str(tmp_path / "workspace"), **values)
    with pytest.raises(ConfigError, match="have room for 2"):
        train.run(config, RAY)
    assert not (tmp_path / "workspace").exists()


@pytest.mark.parametrize(
    "said", ["8", "[8]", "[", '[{"CPU": 8}]', '[{"CPU": 8, "max_nodes": "x"}]', "[" * 10_000]
)
def test_nodes_that_are_not_said_right_are_refused(said, monkeypatch):
    monkeypatch.setenv("MRKD_NODES", said)
    with pytest.raises(ConfigError, match="MRKD_NODES is"):
        cluster._report_nodes()
