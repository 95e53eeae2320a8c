"""Queue of a search: what it draws, whatever the order in which trainings end, and after kills."""

import random
import time

import pytest

from mrkd.config.tune import SearchOptions
from mrkd.runs.attempts import Attempt
from mrkd.runs.trials import Rungs
from mrkd.runs.tune import run, trial
from mrkd.runs.tune.queue import Group, Queue
from mrkd.runs.tune.trial import TrialTask
from mrkd.training.search import Search, Trial
from mrkd.training.search.sampler import sampler_of
from mrkd.training.search.space import uniform
from tests.support.searches import InTurn, small_search

SPACE = {"train.mask_rate": uniform(0.0, 0.9)}
END = Attempt("0", 1)


@pytest.fixture
def search(tmp_path):
    return Search(small_search(tmp_path, tmp_path))


def groups_of(searcher="tpe", number=16, ahead=4, joint=False):
    options = SearchOptions(searcher=searcher, seed=3)
    names = [["plate", "ring"]] if joint else [["plate"], ["ring"]]
    return [Group(some, sampler_of(options, SPACE), number, ahead, None) for some in names]


def end_as_done(search, queue, one, best=0.3):
    rate = one.values["train.mask_rate"]
    one.state, one.marks = "done", {"objective": 1 - abs(rate - best) - 0.1 * (one.category > "q")}
    search.put(one)
    queue.end(one, END)


def work(search, groups, at_once, rng, most=10**6, best=0.3):
    """Ends so many trainings in any order; those under way then are lost, as by a kill."""
    queue, running = Queue(search, groups, left_s=1e9), []
    while most:
        while len(running) < at_once and (one := queue.take()):
            running.append(one)
        if not running:
            assert queue.is_done
            return queue
        end_as_done(search, queue, running.pop(rng.randrange(len(running))), best)
        most -= 1
    return queue


def drawn(search):
    return {(one.category, one.values["train.mask_rate"], one.objective) for one in search.trials()}


@pytest.mark.parametrize("joint", [False, True])
def test_neither_order_nor_room_nor_kills_change_what_tpe_draws(tmp_path, joint):
    found = []
    for number, at_once in enumerate((1, 1, 3, 8, 8)):
        folder = tmp_path / str(number)
        folder.mkdir()
        search, rng = Search(small_search(folder, folder)), random.Random(number)
        for killed_after in (5, 14, 10**6) if number else (10**6,):
            work(search, groups_of(joint=joint), at_once, rng, killed_after)
        found.append(drawn(search))
    assert len(found[0]) == 32
    assert all(other == found[0] for other in found)
    # It learns: with other results the last trials are others.
    folder.joinpath("other").mkdir()
    search = Search(small_search(folder / "other", folder))
    work(search, groups_of(joint=joint), 1, random.Random(0), best=0.8)
    rates = [
        {rate for name, rate, _ in some if name == "plate"} for some in (drawn(search), found[0])
    ]
    assert 12 <= len(rates[0] & rates[1]) < 16


def test_a_draw_waits_for_the_trials_so_many_before_it_and_learns_in_the_order_of_numbers(search):
    rates = [0.1, 0.2, 0.3, 0.4, 0.5]
    group = Group(["plate"], sampler := InTurn(rates), 5, 2, None)
    queue = Queue(search, [group], left_s=1e9)
    first, second = queue.take(), queue.take()
    assert queue.take() is None
    end_as_done(search, queue, second)
    assert queue.take() is None  # it waits for the first
    assert sampler.told == []
    end_as_done(search, queue, first)
    third, fourth = queue.take(), queue.take()
    assert (third.values, fourth.values) == ({"train.mask_rate": 0.3}, {"train.mask_rate": 0.4})
    assert sampler.told == [1 - abs(rate - 0.3) for rate in rates[:2]]
    assert queue.take() is None
    assert not queue.is_done


def test_a_config_that_is_drawn_twice_is_trained_once_and_is_the_result_of_both_trials(search):
    group = Group(["plate"], sampler := InTurn([0.3, 0.3, 0.5]), 3, 2, None)
    queue = Queue(search, [group], left_s=1e9)
    first = queue.take()
    assert queue.take() is None
    end_as_done(search, queue, first)
    end_as_done(search, queue, queue.take())
    assert queue.is_done
    assert sampler.told == [1.0]
    assert (len(search.trials()), queue.count()) == (2, (3, 3))


def test_a_trial_that_failed_counts_as_the_worst_before_and_after_a_kill(search):
    told = []
    for _ in range(2):
        group = Group(["plate"], sampler := InTurn([0.3, 0.5]), 2, 1, None)
        queue = Queue(search, [group], left_s=1e9)
        if not told:
            queue.end(queue.take(), Attempt("0", 1, error="its worker died"))
        assert queue.take().values == {"train.mask_rate": 0.5}
        told.append(sampler.told)
    assert told == [[0.0], [0.0]]


def test_rungs_of_trials_that_are_stored_count_after_a_kill(search):
    def group():
        return Group(["plate"], InTurn([0.3, 0.5]), 2, None, Rungs(1, 2))

    queue = Queue(search, [group()], left_s=1e9)
    one = queue.take()
    one.rows = [{"epoch": 0, "objective": 0.9}]
    assert not queue.is_below(one, 1, 0.9)
    end_as_done(search, queue, one)
    again = Queue(search, [group()], left_s=1e9)
    assert again.is_below(again.take(), 1, 0.8)


def test_no_training_is_given_once_the_time_is_up_and_stored_ones_are_counted(search):
    work(search, groups_of(number=4), 2, random.Random(0), most=5)
    queue = Queue(search, groups_of(number=4), left_s=0.0)
    assert (queue.is_done, queue.take(), queue.count()) == (True, None, (5, 8))
    assert search.get_spent_s() > 0
    assert work(search, groups_of(number=4), 2, random.Random(0)).count() == (8, 8)


@pytest.mark.parametrize(("left_s", "begun", "trains"), [(60, 0, 1), (-1, 0, 0), (-1, 1, 1)])
def test_a_worker_begins_no_training_once_the_time_is_up(
    search, monkeypatch, left_s, begun, trains
):
    one, tried = Trial("plate", {}, 0), []
    if begun:  # and was started again, as its process had crashed
        search.put(one)
    monkeypatch.setattr(trial, "try_one", lambda task, one, report: tried.append(one))
    task = TrialTask(search.config, {"plate": []}, "")
    run._trainable(task, time.time() + left_s, one, lambda row: None)
    assert len(tried) == trains


@pytest.mark.parametrize(
    ("values", "number"),
    [
        ({}, 48),
        ({"searcher": "tpe"}, 8),
        ({"searcher": "tpe", "trials": 3}, 6),
        ({"trials_at_once": 5}, 5),
    ],
)
def test_a_node_is_shared_among_as_many_trainings_as_may_run_at_one_time(values, number):
    assert run._num_at_once(SearchOptions(**values), 2) == number


def test_a_training_that_waited_until_the_time_was_up_is_left_for_a_later_start(search):
    queue = Queue(search, groups_of(number=1, joint=True), left_s=1e9)
    queue.end(queue.take(), END)
    assert search.trials() == []
    again = Queue(search, groups_of(number=1, joint=True), left_s=1e9)
    assert [again.take().category, again.take().category] == ["plate", "ring"]
