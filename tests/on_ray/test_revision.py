"""Passes over a revision's shards: who reads, what breaks off, what is tried again."""

import pytest
from ray.exceptions import RaySystemError

from mrkd import storage
from mrkd.config import PoolConfig
from mrkd.errors import StorageError
from mrkd.nights import model_versions
from mrkd.nights.night import Night
from mrkd.runs.on_ray import cluster, status_actor
from mrkd.runs.on_ray.score.passes import Committer, Readers, readers
from mrkd.runs.on_ray.score.steps import Pass, Work
from mrkd.runs.resources import Node, Resources
from mrkd.runs.shards.quarantine import Quarantine

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


def test_a_night_with_fewer_requests_than_readers_is_read(plant, archive):
    config = plant.score_config(archive, "one-get", **{"pool.gets_per_node": 1})
    night, shards = planned(config)
    found = cluster.nodes()
    assert readers(found, 1).at_once == 1
    with night.lease() as lease:
        pool = resources.scorer_pool(found, PoolConfig())
        Committer(night, config, pool, found, lease).commit_all(shards)
    assert night.todo(1) == []


class _BreaksOff(Committer):
    """Its first pass commits everything and ends before it says so."""

    def _together(self, shards, settings):
        works = super()._together(shards, settings)
        if self.done.passes > 1:
            yield from works
        assert all(work.counts for work in works)
        raise RaySystemError("the cluster is gone")


def test_what_a_pass_committed_before_it_broke_off_is_counted(plant, archive):
    config = plant.score_config(archive, "broken-off", **{"rows.shard_rows": 1})
    night, shards = planned(config)
    found = cluster.nodes()
    with night.lease() as lease:
        pool = resources.scorer_pool(found, PoolConfig())
        committer = _BreaksOff(night, config, pool, found, lease)
        committer.commit_all(shards)
    assert (committer.done.images, committer.done.passes) == (NUM_IMAGES, 1)


def test_a_death_that_cannot_be_stored_leaves_its_shard_for_another_pass(plant, archive):
    config = plant.score_config(archive, "not-stored")
    night, shards = planned(config)
    storage.write(storage.join(night.uri, "attempts"), b"where its folder should be")
    settings = Pass(config, Resources(0.5), status_actor.start(), threads=1, last=True)
    work = Quarantine(night, settings)(Work(shards[0], crashes=2))
    assert isinstance(work.failure, StorageError)
    assert (work.shard, work.counts) == (shards[0], {})
