"""A training that was ended goes on from its last checkpoint to the very same bits."""

import pytest
import torch

from mrkd import training
from mrkd.errors import ArtefactError
from mrkd.training import Checkpoint
from tests.unit.test_training import _fit, pixels, teacher  # noqa: F401 (fixtures)


class Killed(Exception):
    """What ends a training in these tests."""


def kill_after(epoch):
    """A `save` that keeps the checkpoint of an epoch and ends the training there."""
    kept = []

    def save(state):
        if len(state.history) - 1 == epoch:
            kept.append(state.to_bytes())
            raise Killed

    return save, kept


@pytest.mark.parametrize("epoch", range(5))
def test_killed_after_any_epoch_it_ends_with_the_same_weights_and_history(teacher, pixels, epoch):  # noqa: F811
    values = {"max_steps": 10, "learning_rate": 0.02, "mask_rate": 0.4}
    _, whole, _ = _fit(teacher, pixels, **values)
    save, kept = kill_after(epoch)
    with pytest.raises(Killed):
        _fit(teacher, pixels, save=save, **values)
    state = Checkpoint.from_bytes(kept[0], where="here")
    _, resumed, rows = _fit(teacher, pixels, resume=state, **values)
    assert resumed.digest == whole.digest
    assert resumed.history == whole.history
    assert resumed.best_epoch == whole.best_epoch
    assert [row["epoch"] for row in rows] == list(range(epoch + 1, 5))


def test_a_resumed_training_stops_early_where_the_whole_one_did(teacher, pixels):  # noqa: F811
    values = {"max_steps": 0, "max_epochs": 50, "learning_rate": 0.5, "patience": 2}
    _, whole, _ = _fit(teacher, pixels, **values)
    states = []
    _fit(teacher, pixels, save=states.append, **values)
    for state in states[-2:]:
        _, resumed, _ = _fit(teacher, pixels, resume=state, **values)
        assert (resumed.steps, resumed.digest) == (whole.steps, whole.digest)


def test_checkpoints_lie_as_far_apart_as_asked(teacher, pixels):  # noqa: F811
    states = []
    model, result, _ = _fit(teacher, pixels, save=states.append)
    assert [state.step for state in states] == [row["step"] for row in result.history]


def test_a_checkpoint_comes_back_from_its_bytes(teacher, pixels):  # noqa: F811
    states = []
    _fit(teacher, pixels, save=states.append)
    found = Checkpoint.from_bytes(states[0].to_bytes(), where="here")
    for part in ("model", "best", "moments"):
        mine, theirs = getattr(states[0], part), getattr(found, part)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert (found.step, found.history) == (states[0].step, states[0].history)
    assert (found.precision, found.num_micro_batches) == ("float32", 1)


def test_a_damaged_checkpoint_is_refused_wherever_the_damage_is(teacher, pixels):  # noqa: F811
    states = []
    _fit(teacher, pixels, save=states.append)
    data = states[0].to_bytes()
    for place in (0, 20, len(data) // 2, len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(ArtefactError, match="here is"):
            Checkpoint.from_bytes(bytes(changed), where="here")
    for length in (0, 7, len(data) - 1):
        with pytest.raises(ArtefactError, match="here is no checkpoint"):
            Checkpoint.from_bytes(data[:length], where="here")


def test_precision_is_measured_once_and_kept(teacher, pixels):  # noqa: F811
    states = []
    _fit(teacher, pixels, save=states.append)
    _, result, _ = _fit(teacher, pixels, resume=states[0], precision="auto")
    assert "asked for" in result.placement.reason
    assert isinstance(training.digest(states[0].model), str)
