"""Faults of a search: lack of memory, and categories that cannot be tested."""

import pytest
import torch
from ray.exceptions import OutOfMemoryError, RayTaskError

from mrkd.errors import CategoryError, MemoryShortError
from mrkd.runs.on_ray import cluster
from mrkd.runs.on_ray.category_tasks import Attempt
from mrkd.runs.on_ray.cluster import Resources
from mrkd.runs.tune import refit, trial
from mrkd.runs.tune.run import end_trial
from mrkd.runs.tune.trial import TrialTask
from mrkd.training.search import Search, Trial
from tests.support.searches import small_search

# Written by Ray for a worker of its own, of whose error Ray Tune keeps the text alone.
LOW_MEMORY = "Failure # 1\n1 worker(s) were killed due to the node running low on memory. See"


@pytest.fixture
def task(tmp_path):
    """The input of a search of two categories without images."""
    config = small_search(tmp_path, tmp_path)
    return TrialTask(config, {"plate": [], "ring": []}, Resources(1), str(tmp_path))


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
    monkeypatch.setattr(cluster, "enter_worker", lambda resources: None)
    found = trial.try_one(task, Trial("plate", {}, 0))
    assert (found.state, found.error) == (state, str(error))
    assert task.search.get("plate", found.key, 0) == found


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (RayTaskError("f", "", torch.OutOfMemoryError("no room")), "out_of_memory"),
        (OutOfMemoryError("the node"), "out_of_memory"),
        (LOW_MEMORY, "out_of_memory"),
        (RayTaskError("f", "", ValueError("OutOfMemoryError is but a word here")), "failed"),
        (None, "pruned"),
    ],
)
def test_a_trial_whose_process_lacked_memory_ends_as_such(tmp_path, error, state):
    search = Search(small_search(tmp_path, tmp_path))
    end_trial(search, Trial("plate", {}, 0), error)
    (found,) = search.trials()
    assert found.state == state


def failing_tests(monkeypatch, failing):
    """Refits that end at once, and tests of which those of some categories fail."""

    def run_each(function, arguments, *_, **__):
        for name, values in arguments.items():
            if function is trial.test:
                error = "its images are gone" if name in failing else ""
                yield Attempt(name, 1, result={"by": "labels"}, error=error)
            else:
                one = values[1]
                one.state, one.marks = "done", {"objective": 0.5}
                yield Attempt(name, 1, result=one)

    monkeypatch.setattr(refit, "run_each", run_each)


def test_a_category_that_cannot_be_tested_is_left_out_with_its_reason(task, monkeypatch):
    failing_tests(monkeypatch, {"plate"})
    plate, ring = refit.find(task, [["plate"], ["ring"]])
    assert (plate.tests, plate.untested) == ({}, {"plate": "its images are gone"})
    assert (ring.tests, ring.untested) == ({"ring": {"by": "labels"}}, {})
    assert task.search.get_test("plate") is None  # the next start tests it again


def test_a_search_none_of_whose_categories_can_be_tested_fails(task, monkeypatch):
    failing_tests(monkeypatch, {"plate", "ring"})
    with pytest.raises(CategoryError, match="category plate cannot be tested: its images are gone"):
        refit.find(task, [["plate"], ["ring"]])
