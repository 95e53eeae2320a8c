from mrkd import storage
from mrkd.errors import StorageError
from mrkd.nights import model_versions
from mrkd.nights.night import Night
from mrkd.runs.shards.quarantine import Quarantine
from mrkd.runs.shards.shard_work import Work
from tests.support.plants import HERE


def test_a_death_that_cannot_be_stored_leaves_its_shard_for_another_pass(plant, archive):
    config = plant.score_config(archive, "not-stored")
    night = Night(config.workspace, config.run)
    revision = next(
        night.revisions(config, lambda name: model_versions.pin(config.workspace, name))
    )
    shard, *_ = night.todo(revision)
    storage.write(storage.join(night.uri, "attempts"), b"where its folder should be")
    with night.lease() as lease:
        score_span = HERE.committer(night, config, lease).score_span
        work = Quarantine(night, score_span)(Work(shard, crashes=2))
    assert isinstance(work.failure, StorageError)
    assert (work.shard, work.counts) == (shard, {})
