"""Passes over a revision's shards: who reads, what breaks off, what is tried again."""

import pytest
from ray.exceptions import RaySystemError

from mrkd.config import PoolConfig
from mrkd.nights import model_versions
from mrkd.nights.night import Night
from mrkd.runs.on_ray import cluster
from mrkd.runs.on_ray.score import object_rows
from mrkd.runs.on_ray.score.passes import RayCommitter, Readers, readers
from mrkd.runs.resources import Node, scorer_pool

NUM_IMAGES = 24


def planned(config):
    """The night's first plan, stored."""
    night = Night(config.workspace, config.run)
    pins = lambda category: model_versions.pin(config.workspace, category)  # noqa: E731 (one line)
    revision = next(night.revisions(config, pins))
    return night, night.todo(revision)


@pytest.mark.parametrize(
    ("cpus", "gets_per_node", "expected"),
    [
        ([2], 64, Readers(16)),
        ([1, 8], 64, Readers(4)),
        ([1], 10_000, Readers(32)),
        ([0], 64, Readers(32)),
        ([], 64, Readers(32)),
        ([64], 64, Readers(1, at_once=64)),
        ([64, 2, 0], 64, Readers(1, at_once=64 + 4)),
    ],
)
def test_the_readers_of_a_node_have_no_more_requests_under_way_than_it_may(
    cpus, gets_per_node, expected
):
    found = readers([Node(each) for each in cpus], gets_per_node)
    assert found == expected
    for each in cpus:
        at_once = min(2 * each, gets_per_node if found.at_once else 2 * each)
        assert at_once * found.threads <= gets_per_node


def committer_of(night, config, lease, kind=RayCommitter):
    found = cluster.nodes()
    return kind(night, config, lease, scorer_pool(found, PoolConfig()), found)


def test_a_night_with_fewer_requests_than_readers_is_read(plant, archive):
    config = plant.score_config(archive, "one-get", **{"pool.gets_per_node": 1})
    night, shards = planned(config)
    assert readers(cluster.nodes(), 1).at_once == 1
    with night.lease() as lease:
        committer_of(night, config, lease).commit_all(shards)
    assert night.todo(1) == []


class _Cut:
    """A pass that commits everything, and of which no row arrives."""

    def __init__(self, dataset):
        self._dataset = dataset

    def iter_batches(self, **options):
        rows = list(self._dataset.iter_batches(**options))
        assert all(object_rows.unpack(row).counts for row in rows)
        raise RaySystemError("the cluster is gone")


class _BreaksOff(RayCommitter):
    """Its first pass commits everything and ends before it says so."""

    def _pipeline(self, shards, settings):
        whole = super()._pipeline(shards, settings)
        return whole if self.done.passes > 1 else _Cut(whole)


def test_what_a_pass_committed_before_it_broke_off_is_counted(plant, archive):
    config = plant.score_config(archive, "broken-off")
    night, shards = planned(config)
    with night.lease() as lease:
        committer = committer_of(night, config, lease, _BreaksOff)
        committer.commit_all(shards)
    assert (committer.done.images, committer.done.passes) == (NUM_IMAGES, 1)
