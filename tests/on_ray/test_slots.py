import os
import signal
import time
from pathlib import Path

import pytest

from mrkd.errors import CategoryError, StorageError
from mrkd.runs.on_ray.slots import run_each
from mrkd.runs.resources import Resources
from tests.support.crowd import meet

ASK = Resources(1)


def fall_over(starts, category):
    """Dies the first time that it is called with a folder."""
    mark = starts / category
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return category.upper()


def complain(category):
    if category == "a":
        raise CategoryError(f"{category} has no image")
    if category == "b":
        raise ZeroDivisionError("a bug")
    return category


def out_of_reach(starts, kind):
    """Reached at the second try, if it may be."""
    mark = starts / kind
    if not mark.exists():
        mark.write_text(str(time.time()))
        raise StorageError("no answer", kind)
    return time.time() - float(mark.read_text())


def stay(folder, category):
    """Leaves its process's number; every other than `short` has no end."""
    (folder / category).write_text(str(os.getpid()))
    while category != "short":
        time.sleep(0.1)


def test_a_category_whose_worker_died_is_started_again(tmp_path):
    (tmp_path / "well").touch()
    arguments = {name: (tmp_path, name) for name in ("ill", "well")}
    attempts = list(run_each(fall_over, arguments, ASK, max_failures=1))
    found = {(one.category, one.number): (one.result, one.last) for one in attempts}
    assert found == {
        ("ill", 1): (None, False),
        ("ill", 2): ("ILL", True),
        ("well", 1): ("WELL", True),
    }
    assert "its worker died" in next(one.error for one in attempts if one.error)


def test_a_worker_that_died_too_often_ends_its_category(tmp_path):
    (attempt,) = run_each(fall_over, {"ill": (tmp_path, "ill")}, ASK, max_failures=0)
    assert attempt.last
    assert attempt.result is None


def test_what_a_category_raises_ends_it_alone_and_is_not_tried_again():
    arguments = {name: (name,) for name in "abc"}
    found = {one.category: one for one in run_each(complain, arguments, ASK, max_failures=3)}
    assert all(one.last and one.number == 1 for one in found.values())
    assert found["a"].error == "a has no image"
    assert found["b"].error == "ZeroDivisionError: a bug"
    assert found["c"].result == "c"
    assert "in complain" in found["b"].traceback
    assert "\x1b" not in found["b"].traceback


def test_a_place_that_was_not_reached_is_tried_again_after_a_while(tmp_path):
    arguments = {kind: (tmp_path, kind) for kind in ("unreachable", "forbidden")}
    attempts = list(run_each(out_of_reach, arguments, ASK, max_failures=2, backoff_s=1.5))
    found = {(one.category, one.number): one for one in attempts}
    assert found.keys() == {("unreachable", 1), ("unreachable", 2), ("forbidden", 1)}
    assert found["forbidden", 1].last
    assert found["unreachable", 2].result >= 1.5


@pytest.mark.parametrize("at_once", [1, 2])
def test_no_more_calls_are_under_way_than_are_allowed(tmp_path, at_once):
    calls = dict.fromkeys("abcd", (tmp_path, at_once))
    options = {"max_failures": 0, "at_once": at_once}
    found = [one.result for one in run_each(meet, calls, Resources(0), **options)]
    assert max(found) == at_once


@pytest.mark.timeout(60)
def test_no_category_is_no_work():
    assert list(run_each(complain, {}, ASK, max_failures=0)) == []


def test_whoever_leaves_before_the_last_ends_the_calls_under_way(tmp_path):
    calls = run_each(
        stay, {name: (tmp_path, name) for name in ("long", "short")}, ASK, max_failures=0
    )
    assert next(calls).category == "short"
    long = tmp_path / "long"
    until = time.monotonic() + 60
    while not long.exists() or not long.read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    calls.close()
    while Path(f"/proc/{long.read_text()}").exists():
        assert time.monotonic() < until
        time.sleep(0.05)


def fetch(folder, category):
    """Leaves a mark, or fails as reading does."""
    if category == "lost":
        raise StorageError("no such image", "missing")
    (folder / f"{category}.read").touch()
    return category.upper()


def use(folder, category, fetched):
    """How many categories had been read, of which this one is one."""
    time.sleep(0.3)
    return fetched, len(list(folder.glob("*.read")))


def test_what_a_call_needs_is_prepared_ahead_of_it_and_not_much_ahead(tmp_path):
    names = ["lost", *(f"c{number}" for number in range(8))]
    calls = {name: (tmp_path, name) for name in names}
    found = list(run_each(use, calls, Resources(0.75), max_failures=1, before=fetch))
    ends = {one.category: one for one in found}
    assert len(found) == len(names)
    assert ends.pop("lost").error == "no such image"
    assert {name: one.result[0] for name, one in ends.items()} == {n: n.upper() for n in ends}
    # Two slots: two are under way, two are ready or being read; one more as a call ends.
    in_order = [one.result[1] for one in found if not one.error]
    assert all(number <= ended + 5 for ended, number in enumerate(in_order))
