"""A search's trainings, which it measures itself."""

import pytest

from mrkd import storage
from mrkd.data import datasets
from mrkd.model.registry import promotions
from mrkd.training.category import TrialHook, train_category
from tests.support.models import small_config
from tests.support.parts import make_parts


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return make_parts(tmp_path_factory.mktemp("parts"), categories=1, train=32)


def train(parts, folder, probe, report=None):
    values = {"fleet.checkpoint_s": 0.0, "train.max_steps": 12}
    config = small_config(str(parts), str(folder), **values)
    return train_category(
        config,
        "plate",
        datasets.load(config.data)["plate"],
        report=report,
        checkpoints_uri=str(folder / "checkpoints"),
        probe=probe,
    )


def marks(model, samples, threshold):
    return {"objective": threshold}


def kept(folder):
    """The folders of a workspace that hold a file."""
    return {
        entry.uri.removeprefix(f"file://{folder}/").split("/")[0]
        for entry in storage.list_files(str(folder))
    }


def test_a_training_that_is_measured_is_neither_promoted_nor_held(parts, tmp_path):
    result = train(parts, tmp_path, TrialHook(marks, lambda epochs: False))
    assert (result.status, result.marks) == ("trained", {"objective": result.threshold})
    assert promotions.champion(str(tmp_path), "plate") is None
    assert kept(tmp_path) == {"models", "teachers"}


def test_one_that_is_to_be_forgotten_says_the_same_and_leaves_no_version(parts, tmp_path):
    told = [
        train(parts, tmp_path / name, TrialHook(marks, lambda epochs: False, forgets=forgets))
        for name, forgets in (("kept", False), ("forgotten", True), ("forgotten", True))
    ]
    assert len({(one.version, one.threshold, one.model_bytes) for one in told}) == 1
    assert [one.status for one in told] == ["trained"] * 3
    assert kept(tmp_path / "forgotten") == {"teachers"}


def test_one_that_died_while_it_was_measured_goes_on_from_its_checkpoint(parts, tmp_path):
    def dies(model, samples, threshold):
        raise RuntimeError("the worker died")

    rows = []
    with pytest.raises(RuntimeError, match="the worker died"):
        train(parts, tmp_path, TrialHook(dies, lambda epochs: False, forgets=True), rows.append)
    assert kept(tmp_path) == {"checkpoints", "teachers"}
    num_epochs = len(rows)
    train(parts, tmp_path, TrialHook(marks, lambda epochs: False, forgets=True), rows.append)
    assert num_epochs > 1
    assert [row["epoch"] for row in rows[num_epochs:]] == [num_epochs - 1]
    assert kept(tmp_path) == {"teachers"}
