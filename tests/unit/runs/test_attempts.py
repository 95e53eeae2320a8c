"""Attempts: what is started, started again, and ended."""

import time

import pytest

from mrkd.errors import CategoryError, MemoryShortError, StorageError
from mrkd.runs.attempts import Attempt, Tries, attempts, failed


@pytest.mark.parametrize(
    ("error", "last", "text"),
    [
        (CategoryError("too few\nimages"), True, "too few images"),
        (StorageError("no answer", kind="unreachable"), False, "no answer"),
        (StorageError("no such key", kind="missing"), True, "no such key"),
        (RuntimeError("CUDA error"), False, "RuntimeError: CUDA error"),
        (OSError("disk"), False, "OSError: disk"),
        (ValueError("a bug"), True, "ValueError: a bug"),
    ],
)
def test_what_may_pass_is_tried_again(error, last, text):
    attempt = failed("plate", 1, error, "\x1b[31mTraceback\x1b[0m")
    assert (attempt.last, attempt.error, attempt.traceback) == (last, text, "Traceback")


def test_memory_that_ran_out_is_known():
    assert failed("a", 1, MemoryShortError("short"), "").out_of_memory
    assert not failed("a", 1, CategoryError("memory"), "").out_of_memory


def test_a_category_is_started_again_after_a_while_and_its_attempts_are_counted():
    from mrkd.runs.in_process import InProcess
    from mrkd.runs.resources import Resources

    seen = []

    def call(name):
        seen.append((name, time.monotonic()))
        if name == "b" and len([one for one, _ in seen if one == "b"]) < 3:
            raise RuntimeError("device")
        return name.upper()

    found = list(
        InProcess(num_cpus=2).run_each(
            call,
            {name: (name,) for name in "ab"},
            Resources(1.0),
            max_failures=2,
            backoff_s=0.1,
        )
    )
    assert [(one.category, one.number) for one in found if one.last] == [("a", 1), ("b", 3)]
    assert [one.result for one in found if not one.error] == ["A", "B"]
    moments = [moment for name, moment in seen if name == "b"]
    assert moments[1] - moments[0] >= 0.1
    assert moments[2] - moments[1] >= 0.2


class Ends:
    """PlacedCalls that end at once, one after another as they are given."""

    def __init__(self, *ends):
        self.ends = list(ends)

    def start(self, category):
        return category

    def wait(self, running, timeout_s):
        return list(running)

    def end(self, handle, category, number):
        return Attempt(category, number, last=False, **self.ends.pop(0))

    def cancel(self, running):
        pass


LOST = {"error": "its node was lost", "lost": "its node was lost"}
KILLED = {"error": "no memory", "lost": "no memory", "out_of_memory": True}
FAILED = {"error": "its worker died"}


def test_a_category_that_is_lost_with_its_node_is_started_again_without_counting():
    found = list(attempts(Ends(LOST, LOST, FAILED, LOST, FAILED), ["a"], max_failures=1))
    assert [one.last for one in found] == [False, False, False, False, True]
    assert [one.number for one in found] == [1, 2, 3, 4, 5]
    assert [bool(one.lost) for one in found] == [True, True, False, True, False]


@pytest.mark.parametrize(("end", "hours"), [(LOST, 24), (KILLED, 0.5)])
def test_a_category_is_not_lost_for_ever(end, hours, monkeypatch):
    moments = iter([0.0, hours * 3600 - 1, hours * 3600])
    tries = Tries(0)
    monkeypatch.setattr("mrkd.runs.attempts.time.monotonic", lambda: next(moments))
    one = Attempt("a", 1, last=False, **end)
    assert [tries.counted(one).last for _ in range(3)] == [False, False, True]
