"""Faults of a search: lack of memory, and categories that cannot be tested."""

import pytest
import torch

from mrkd.errors import CategoryError, MemoryShortError
from mrkd.runs.attempts import Attempt
from mrkd.runs.in_process import InProcess
from mrkd.runs.resources import Resources
from mrkd.runs.tune import refit, trial
from mrkd.runs.tune.queue import end_trial
from mrkd.runs.tune.trial import TrialTask
from mrkd.training.search import Search, Trial
from tests.support.plants import HERE
from tests.support.searches import small_search

EACH = Resources(1.0)


@pytest.fixture
def task(tmp_path):
    """The input of a search of two categories without images."""
    config = small_search(tmp_path, tmp_path)
    return TrialTask(config, {"plate": [], "ring": []}, str(tmp_path))


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (MemoryShortError("out of memory with 2 images at a time"), "out_of_memory"),
        (CategoryError("memory runs out, says a category of that name"), "failed"),
    ],
)
def test_a_training_that_lacks_memory_ends_its_trial_as_such(task, monkeypatch, error, state):
    def train(*_, **__):
        raise error

    monkeypatch.setattr(trial, "train_category", train)
    found = trial.try_one(task, Trial("plate", {}, 0))
    assert (found.state, found.error) == (state, str(error))
    assert task.search.get("plate", found.key, 0) == found


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (torch.OutOfMemoryError("no room"), "out_of_memory"),
        (MemoryShortError("no room for one image"), "out_of_memory"),
        (ValueError("OutOfMemoryError is but a word here"), "failed"),
        (None, "pruned"),
    ],
)
def test_a_trial_that_an_error_or_a_rung_ended_from_outside_ends_as_such(tmp_path, error, state):
    def call():
        if error is not None:
            raise error

    (end,) = HERE.run_each(call, {"0": ()}, EACH, max_failures=0)
    search = Search(small_search(tmp_path, tmp_path))
    search.put(Trial("plate", {}, 0))
    end_trial(search, Trial("plate", {}, 0), end)
    (found,) = search.trials()
    assert (found.state, found.error) == (state, end.error)


class FailingTests(InProcess):
    """Refits that end at once, and tests of which those of some categories fail."""

    def __init__(self, failing):
        super().__init__()
        self._failing = failing

    def run_each(self, function, arguments, resources, **options):
        for name, values in arguments.items():
            if function is trial.test:
                error = "its images are gone" if name in self._failing else ""
                yield Attempt(name, 1, result={"by": "labels"}, error=error)
            else:
                one = values[0]
                one.state, one.marks = "done", {"objective": 0.5}
                yield Attempt(name, 1, result=one)


def test_a_category_that_cannot_be_tested_is_left_out_with_its_reason(task):
    plate, ring = refit.find(task, [["plate"], ["ring"]], FailingTests({"plate"}), EACH)
    assert (plate.tests, plate.untested) == ({}, {"plate": "its images are gone"})
    assert (ring.tests, ring.untested) == ({"ring": {"by": "labels"}}, {})
    assert task.search.get_test("plate", plate.winner) is None  # the next start tests it again


def test_a_search_none_of_whose_categories_can_be_tested_fails(task):
    executor = FailingTests({"plate", "ring"})
    with pytest.raises(CategoryError, match="category plate cannot be tested: its images are gone"):
        refit.find(task, [["plate"], ["ring"]], executor, EACH)


class MadeUp(InProcess):
    """Refits with an objective of their mask rate and a model of one file, and tests of these."""

    def __init__(self, search):
        super().__init__()
        self._search, self.trained = search, []

    def run_each(self, function, arguments, resources, **options):
        for name, values in arguments.items():
            if function is trial.test:
                found = {side: some[0].key for side, some in values[1].items()}
                assert all(
                    self._search.has_model(one) for some in values[1].values() for one in some
                )
                yield Attempt(name, 1, result=found)
            else:
                (one,) = values
                self.trained.append((one.key, one.seed))
                one.state, one.version = "done", f"{one.key}-{one.seed}"
                one.marks = {"objective": one.values.get("train.mask_rate", 0.1)}
                self._search.write_json({}, "models", one.category, one.version, "model.json")
                self._search.put(one)
                yield Attempt(name, 1, result=one)


def test_a_search_that_goes_on_after_its_end_tests_its_new_winner_with_models_made_again(task):
    search, executor = task.search, MadeUp(task.search)
    default = Trial("plate", {}, 1).key
    for number, rate in enumerate((0.3, 0.3, 0.5)):
        one = Trial("plate", {"train.mask_rate": rate}, 0, "done", marks={"objective": rate})
        search.put(one)
        executor.trained.clear()
        (plate,) = refit.find(task, [["plate"]], executor, EACH)
        assert plate.winner == one.key
        assert plate.tests == {"plate": {"winner": one.key, "default": default}}
        # The second time nothing is new; the third the default's model is needed again.
        expected = [] if number == 1 else [(one.key, 1), (default, 1)]
        assert executor.trained == expected
        search.clear()
