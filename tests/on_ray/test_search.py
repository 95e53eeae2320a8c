"""Trials on Ray Tune: how those end whose process lacked memory, or whose code failed."""

import pytest
import torch
from ray.exceptions import OutOfMemoryError, RayTaskError
from ray.tune.error import TuneError

from mrkd.errors import MemoryShortError
from mrkd.runs.on_ray.search import end_of
from mrkd.runs.resources import Resources
from mrkd.runs.trials import TrialPlan
from mrkd.runs.tune.run import end_trial
from mrkd.training.search import Search, Trial
from tests.support.rays import RAY
from tests.support.searches import small_search

# Written by Ray for a worker of its own, of whose error Ray Tune keeps the text alone.
LOW_MEMORY = "Failure # 1\n1 worker(s) were killed due to the node running low on memory. See"


def state_after(folder, end):
    """The state of a trial that had begun when it ended so."""
    folder.mkdir(exist_ok=True)
    search = Search(small_search(folder, folder))
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
    assert state_after(tmp_path, end_of("0", {}, error)) == state


class InTurn:
    """`Sampler` of given values, one after another."""

    def __init__(self, values):
        self._left, self.told = iter(values), []

    def ask(self, trial):
        return {"train.seed": next(self._left)}

    def tell(self, trial, objective):
        self.told.append(objective)


def fail_by_turns(values, report):
    match values["train.seed"]:
        case 0:
            raise torch.OutOfMemoryError("no room")
        case 1:
            raise ValueError("OutOfMemoryError is but a word here")
        case number:
            report({"epoch": 1, "objective": number / 10})


def test_errors_of_trials_in_their_processes_end_them_alone(tmp_path):
    sampler, objectives = InTurn(range(3)), []
    plan = TrialPlan(sampler, 3, Resources(1.0), 1, 0, None, objectives.append)
    ends = {end.result["train.seed"]: end for end in RAY.run_trials(plan, fail_by_turns)}
    assert sorted(ends) == [0, 1, 2]
    assert "no room" in ends[0].error
    assert [state_after(tmp_path / str(n), ends[n]) for n in (0, 1)] == ["out_of_memory", "failed"]
    assert (ends[2].error, ends[2].last) == ("", True)
    assert sorted(objectives) == [0.0, 0.0, 0.2]
    assert sorted(one or 0.0 for one in sampler.told) == [0.0, 0.0, 0.2]
