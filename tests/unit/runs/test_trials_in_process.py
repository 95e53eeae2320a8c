from mrkd.config.tune import SearchOptions
from mrkd.errors import StorageError
from mrkd.runs.resources import Resources
from mrkd.runs.trials import Rungs, TrialPlan
from mrkd.training.search.sampler import sampler_of
from mrkd.training.search.space import uniform
from tests.support.plants import HERE


def test_a_trial_that_is_started_again_is_not_judged_again_at_the_rungs_it_has_passed():
    sampler = sampler_of(SearchOptions(), {"train.mask_rate": uniform(0.0, 0.9)})
    plan = TrialPlan(sampler, 2, Resources(1.0), 1, 1, Rungs(1, 2), lambda objective: None)
    starts, passed = [], []

    def try_config(values, report):
        starts.append(values)
        first = values == starts[0]
        report({"epoch": 1, "objective": 0.5 if first else 0.9})
        passed.append(values)
        if len(starts) == 1:
            raise StorageError("no answer", "unreachable")

    ends = {end.category: end for end in HERE.run_trials(plan, try_config)}
    assert [end.error for end in ends.values()] == ["", ""]
    assert starts == [ends["0"].result, ends["1"].result, ends["0"].result]
    assert passed == starts
