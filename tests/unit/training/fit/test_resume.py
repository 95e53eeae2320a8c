"""A training that was ended goes on from its last checkpoint to the very same bits."""

import json
from typing import Any

import pytest
import safetensors.torch
import torch

from mrkd.errors import ArtefactError
from mrkd.training.fit import Checkpoint
from tests.support.trainings import fit_small

# Five epochs of two steps.
LONG: dict[str, Any] = {"max_steps": 10, "learning_rate": 0.02, "mask_rate": 0.4}


class Killed(Exception):
    """What ends a training in these tests."""


def kill_after(epoch, kept):
    """A `report` that ends the training once an epoch is done."""

    def report(row):
        if row["epoch"] == epoch:
            raise Killed

    return {"report": report, "save": lambda state: kept.append(state.to_bytes())}


def states_of(**values):
    """All checkpoints of a training, and how it ended."""
    states = []
    _, result = fit_small(call={"save": states.append}, **values)
    return states, result


@pytest.fixture(scope="module")
def whole():
    """What an undisturbed training comes to."""
    return fit_small(**LONG)[1]


@pytest.fixture(scope="module")
def state():
    """A checkpoint with something in each of its parts."""
    return states_of()[0][-1]


@pytest.mark.parametrize("epoch", range(5))
def test_killed_after_any_epoch_it_ends_with_the_same_weights_and_history(whole, epoch):
    kept, rows = [], []
    with pytest.raises(Killed):
        fit_small(call=kill_after(epoch, kept), **LONG)
    last = Checkpoint.from_bytes(kept[-1], where="here")
    _, resumed = fit_small(call={"resume": last, "report": rows.append}, **LONG)
    assert (resumed.digest, resumed.history) == (whole.digest, whole.history)
    assert (resumed.best_epoch, resumed.steps) == (whole.best_epoch, whole.steps)
    assert [row["epoch"] for row in rows] == list(range(last.step // 2, 5))


def test_a_training_that_is_killed_again_and_again_ends_the_same(whole):
    call = {}
    for epoch in range(4):
        kept = []
        with pytest.raises(Killed):
            fit_small(call=call | kill_after(epoch, kept), **LONG)
        call = {"resume": Checkpoint.from_bytes(kept[-1], where="here")}
    assert fit_small(call=call, **LONG)[1].digest == whole.digest


def test_a_rising_mask_rate_and_a_falling_learning_rate_go_on_where_they_were():
    values = {"mask_schedule": "rise", "schedule": "cosine", "augment": "flips", **LONG}
    states, undisturbed = states_of(**values)
    assert fit_small(call={"resume": states[1]}, **values)[1].digest == undisturbed.digest


def test_a_resumed_training_stops_early_where_the_whole_one_did():
    values: dict[str, Any] = {"max_steps": 0, "max_epochs": 50, "learning_rate": 0.5, "patience": 2}
    states, undisturbed = states_of(**values)
    assert len(undisturbed.history) < 50
    for state in states[-2:]:
        _, resumed = fit_small(call={"resume": state}, **values)
        assert (resumed.steps, resumed.digest) == (undisturbed.steps, undisturbed.digest)


def test_each_epoch_but_the_last_leaves_a_checkpoint():
    states, result = states_of()
    assert [state.step for state in states] == [row["step"] for row in result.history[:-1]]


def test_no_checkpoint_is_written_before_its_time():
    states = []
    fit_small(call={"save": states.append, "checkpoint_s": 3600.0})
    assert states == []


def test_a_checkpoint_comes_back_from_its_bytes(state):
    found = Checkpoint.from_bytes(state.to_bytes(), where="here")
    for part in ("model", "best", "moments"):
        mine, theirs = getattr(state, part), getattr(found, part)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert (found.step, found.history) == (state.step, state.history)
    assert (found.precision, found.num_micro_batches) == ("float32", 1)


def test_a_damaged_checkpoint_is_refused_wherever_the_damage_is(state):
    data = state.to_bytes()
    for place in (0, 20, len(data) // 2, len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(ArtefactError, match="here is"):
            Checkpoint.from_bytes(bytes(changed), where="here")
    for length in (0, 7, len(data) - 1):
        with pytest.raises(ArtefactError, match="here is not a checkpoint"):
            Checkpoint.from_bytes(data[:length], where="here")


@pytest.mark.parametrize(
    ("name", "facts"), [("model.a", {"unknown": 1}), ("other.a", {"step": 1}), ("model.a", [])]
)
def test_a_file_with_other_fields_than_this_releases_is_no_checkpoint(name, facts):
    header = {"facts": json.dumps(facts), "sha256": ""}
    data = safetensors.torch.save({name: torch.zeros(1)}, header)
    with pytest.raises(ArtefactError, match="here is not a checkpoint"):
        Checkpoint.from_bytes(data, where="here")


def test_precision_is_measured_once_and_kept(state):
    _, result = fit_small(call={"resume": state}, precision="auto")
    assert result.placement.precision is torch.float32
    assert "ms in bfloat16" not in result.placement.reason
