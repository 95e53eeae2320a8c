import ray

from mrkd.runs.on_ray import cluster
from mrkd.runs.resources import Node


def test_a_ray_that_runs_already_is_used_and_left_running():
    with cluster.connect():
        assert cluster.nodes() == [Node(2)]
    assert ray.is_initialized()
