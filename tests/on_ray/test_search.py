"""Trials on Ray Tune: how those end whose process lacked memory, or whose code failed."""

import os

import pytest
import torch
from ray.exceptions import OutOfMemoryError, RayTaskError
from ray.tune.error import TuneError

from mrkd.errors import MemoryShortError, StorageError
from mrkd.runs.on_ray.search import end_of
from mrkd.runs.resources import Resources
from mrkd.runs.trials import TrialPlan
from mrkd.runs.tune import run as tune
from mrkd.runs.tune.queue import end_trial
from mrkd.training.search import Search, Trial
from tests.support.parts import make_parts
from tests.support.plants import HERE
from tests.support.rays import RAY
from tests.support.searches import (
    NUM_LEARNING,
    learning_search,
    results_of,
    search_under_fire,
    small_search,
    winners_of,
)

# Written by Ray for a worker of its own, of whose error Ray Tune keeps the text alone.
LOW_MEMORY = "Failure # 1\n1 worker(s) were killed due to the node running low on memory. See"


def state_after(folder, end):
    """The state of a trial that had begun when it ended so."""
    folder.mkdir(exist_ok=True)
    search = Search(small_search(folder, folder))
    search.put(Trial("plate", {}, 0))
    end_trial(search, Trial("plate", {}, 0), end)
    (found,) = search.trials()
    assert found.error == end.error[-500:]
    return found.state


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (RayTaskError("f", "", torch.OutOfMemoryError("no room")), "out_of_memory"),
        (RayTaskError("f", "", MemoryShortError("no room for one image")), "out_of_memory"),
        (OutOfMemoryError("the node"), "out_of_memory"),
        (TuneError(LOW_MEMORY), "out_of_memory"),
        (RayTaskError("f", "", ValueError("OutOfMemoryError is but a word here")), "failed"),
        (None, "pruned"),
    ],
)
def test_a_trial_whose_process_lacked_memory_ends_as_such(tmp_path, error, state):
    assert state_after(tmp_path, end_of("0", error)) == state


def fail_by_turns(trial, report):
    match trial.values["train.mask_rate"]:
        case 0.0:
            raise torch.OutOfMemoryError("no room")
        case 0.1:
            raise ValueError("OutOfMemoryError is but a word here")
        case rate:
            report({"epoch": 1, "objective": rate})


class Recorded:
    """`TrialQueue` of given mask rates, which ends no training at a rung but those below a limit.

    Args:
        rates: mask rates.
        least: least objective with which a training goes on.
    """

    def __init__(self, rates, least=None):
        self._left, self._least = list(rates), least
        self.ends, self.reports = {}, []
        self.has_rungs = least is not None

    @property
    def is_done(self):
        return not self._left

    def take(self):
        return Trial("plate", {"train.mask_rate": self._left.pop(0)}, 0)

    def end(self, trial, end):
        self.ends[trial.values["train.mask_rate"]] = end

    def is_below(self, trial, epoch, objective):
        self.reports.append((trial.values["train.mask_rate"], epoch, objective))
        return self._least is not None and objective < self._least


def test_errors_of_trials_in_their_processes_end_them_alone(tmp_path):
    queue = Recorded([0.0, 0.1, 0.2])
    RAY.run_trials(TrialPlan(queue, Resources(1.0), 1, 0), fail_by_turns)
    assert sorted(queue.ends) == [0.0, 0.1, 0.2]
    assert "no room" in queue.ends[0.0].error
    found = [state_after(tmp_path / str(rate), queue.ends[rate]) for rate in (0.0, 0.1)]
    assert found == ["out_of_memory", "failed"]
    assert (queue.ends[0.2].error, queue.ends[0.2].last) == ("", True)
    assert queue.reports == [(0.2, 1, 0.2)]


def test_trials_without_rungs_print_nothing(capfd):
    RAY.run_trials(TrialPlan(Recorded([0.2, 0.3]), Resources(1.0), 1, 0), do_nothing)
    assert "Last result" not in capfd.readouterr().out


def do_nothing(trial, report):
    pass


def report_pid(trial, report):
    report({"epoch": 1, "objective": os.getpid() if trial.values["train.mask_rate"] else -1})
    report({"epoch": 2, "objective": os.getpid()})


@pytest.mark.parametrize(("least", "num_processes"), [(None, 1), (0, 3)])
def test_trainings_share_a_process_unless_rungs_end_some_from_outside(least, num_processes):
    queue = Recorded([0.0, 0.1, 0.2], least)
    RAY.run_trials(TrialPlan(queue, Resources(1.0), 1, 0), report_pid)
    assert [end.error for end in queue.ends.values()] == ["", "", ""]
    assert len({pid for rate, _, pid in queue.reports if rate}) == max(1, num_processes - 1)
    # The first is ended at its first rung where there is a limit, and nowhere else.
    assert [epoch for rate, epoch, _ in queue.reports if not rate] == (
        [1] if least == 0 else [1, 2]
    )


class FailingStorage(Recorded):
    """A queue that cannot store the end of a training."""

    def end(self, trial, end):
        super().end(trial, end)
        raise StorageError("no answer", "unreachable")


def test_a_search_that_cannot_store_an_end_begins_no_other_trial_and_fails():
    queue = FailingStorage([0.2, 0.3, 0.4])
    with pytest.raises(StorageError, match="no answer"):
        RAY.run_trials(TrialPlan(queue, Resources(1.0), 1, 0), fail_by_turns)
    assert len(queue.ends) == 1


@pytest.mark.chaos
def test_a_search_of_two_categories_by_tpe_that_is_killed_twice_draws_what_an_undisturbed_one_does(
    tmp_path,
):
    root = make_parts(tmp_path / "parts", test_good=12, test_defect=12)
    here, on_ray = tmp_path / "here", tmp_path / "on-ray"
    here.mkdir()
    on_ray.mkdir()
    undisturbed = learning_search(here, root, **{"search.trials_at_once": 1})
    assert tune.run(undisturbed, HERE).exit_code == 0
    config = learning_search(on_ray, root, executor="ray")
    search_under_fire(config, on_ray, [3, 2 * (NUM_LEARNING - 2)])
    assert results_of(config) == results_of(undisturbed)
    assert winners_of(config) == winners_of(undisturbed)
