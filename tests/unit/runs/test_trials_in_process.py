"""Trainings of a search in threads: those that start again, and rungs."""

import threading
import time

import pytest

from mrkd.errors import StorageError
from mrkd.runs.in_process import InProcess
from mrkd.runs.resources import Resources
from mrkd.runs.trials import Rungs, TrialPlan
from mrkd.runs.tune.queue import Group, Queue
from mrkd.training.search import Search
from tests.support.plants import HERE
from tests.support.searches import InTurn, small_search

EACH = Resources(1.0)


def queue_of(folder, *groups):
    return Queue(Search(small_search(folder, folder)), groups, left_s=1e9)


class NeverTwice(Rungs):
    """Rungs that end whatever reports a second time."""

    def __init__(self):
        super().__init__(1, 2)
        self._seen = set()

    def is_below(self, epoch, objective):
        below = objective in self._seen
        self._seen.add(objective)
        return below


def test_a_trial_that_is_started_again_is_not_judged_again_at_the_rungs_it_has_passed(tmp_path):
    group = Group(["plate"], InTurn([0.5, 0.9]), 2, None, NeverTwice())
    starts, passed = [], []

    def try_one(trial, report):
        starts.append(trial.values["train.mask_rate"])
        report({"epoch": 1, "objective": starts[-1]})
        passed.append(starts[-1])
        if len(starts) == 1:
            raise StorageError("no answer", "unreachable")

    HERE.run_trials(TrialPlan(queue_of(tmp_path, group), EACH, 1, 1), try_one)
    assert starts == [0.5, 0.5, 0.9]
    assert passed == starts


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize(("cpus", "at_once", "most"), [(3, None, 3), (3, 2, 2), (2, 5, 2)])
def test_categories_are_tried_side_by_side_and_never_more_at_once_than_there_is_room_for(
    tmp_path, joint, cpus, at_once, most
):
    names = [["plate", "ring"]] if joint else [["plate"], ["ring"]]
    groups = [Group(some, InTurn([0.1, 0.2, 0.3]), 3, None, None) for some in names]
    queue = queue_of(tmp_path, *groups)
    lock, running, seen = threading.Lock(), [], []

    def try_one(trial, report):
        with lock:
            running.append(trial.category)
            seen.append(list(running))
        time.sleep(0.1)
        with lock:
            running.remove(trial.category)

    InProcess(num_cpus=cpus).run_trials(TrialPlan(queue, EACH, at_once, 0), try_one)
    assert len(seen) == 6
    assert max(len(some) for some in seen) == most
    assert any(set(some) == {"plate", "ring"} for some in seen)
