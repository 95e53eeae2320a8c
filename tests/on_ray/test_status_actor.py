"""The status actor, and what a fleet's line makes of its answers and of its loss."""

import logging
import re
import time

import pytest
import ray
from ray.exceptions import RayActorError

from mrkd.runs.on_ray import status_actor
from mrkd.runs.on_ray.status_actor import ActorStatus, StatusActor
from mrkd.runs.progress import FleetProgress
from tests.support.rays import RAY


@pytest.fixture
def status():
    return RAY.new_status()


def progress(status):
    work = {"cap": 100.0, "nut": 100.0, "cog": 200.0}
    steps = dict.fromkeys(work, 50)
    return FleetProgress("run", work, steps, num_up_to_date=4, status=status, gauge=RAY.gauge)


def kill(actor):
    """Ends the actor for good, unlike a crash, after which it is started anew, and sees it gone."""
    ray.kill(actor)  # returns before the process has ended, which may still answer
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            ray.get(actor.reports.remote(), timeout=60)
        except RayActorError:
            return
    raise TimeoutError("the actor still answers")


def last_line(caplog):
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("fleet ")][-1]


@ray.remote(num_cpus=0)
def train(status: ActorStatus, category, row):
    """Reports from another process, as a worker does."""
    status.report(category, row)
    status.reports()  # by then the report has arrived


def test_the_line_counts_what_workers_report_from_their_processes(status, caplog):
    caplog.set_level(logging.INFO, "mrkd")
    one = progress(status)
    one.publish()
    assert last_line(caplog) == "fleet done=0 running=0 queued=3 failed=0 up_to_date=4 eta=unknown"
    ray.get(
        [train.remote(status, "cap", {}), train.remote(status, "nut", {"step": 25, "epoch": 1})]
    )
    one.publish()
    assert re.fullmatch(
        r"fleet done=0 running=2 queued=1 failed=0 up_to_date=4 eta=\d+s", last_line(caplog)
    )
    ray.get(train.remote(status, "cap", {"step": 5, "epoch": 0}))
    assert one.under_way()["cap"] == {"step": 5, "epoch": 0}
    one.end("nut", "trained")
    one.end("cap", "failed")
    assert last_line(caplog).startswith("fleet done=1 running=0 queued=1 failed=1 up_to_date=4")
    assert one.under_way() == {}


def test_a_lost_status_costs_its_words_and_nothing_else(status, caplog):
    caplog.set_level(logging.INFO, "mrkd")
    one = progress(status)
    ray.get(train.remote(status, "cap", {}))
    kill(status.actor)
    assert one.under_way() == {}
    one.end("cap", "trained")
    assert "board_lost" in caplog.text
    assert last_line(caplog).startswith("fleet done=1 running=0 queued=2")


def test_the_status_counts_how_often_a_step_was_begun_until_it_was_done():
    """Once done it may be wanted again, as its block was lost with a node: that is no death."""
    status = StatusActor()
    begun = [status.begin(*step) for step in (("a", "read"), ("a", "read"), ("b", "read"))]
    assert begun == [1, 2, 1]
    assert status.in_hand() == {"a": 2, "b": 1}
    status.end("b", "read")
    assert [status.begin("b", "read"), status.begin("b", "score")] == [1, 1]
    status.end("b", "read")
    status.end("a", "read")
    assert status.in_hand() == {"b": 1}
    status.clear_steps()
    assert status.in_hand() == {}


def test_the_status_knows_where_a_task_was_last_and_that_it_ran_before():
    status = StatusActor()
    assert status.report_of("t") == {}
    assert status.report("t", {})
    status.report("t", {"step": "decode", "number": 3})
    assert status.report_of("t") == {"step": "decode", "number": 3}
    assert not status.report("t", {})
    assert status.report_of("t") == {"step": "decode", "number": 3}


def test_a_status_that_is_gone_costs_its_answer_and_nothing_else(caplog):
    actor = status_actor.start()
    assert status_actor.ask(actor.begin.remote("a", "read"), otherwise=7) == 1
    ray.kill(actor)
    deadline = time.monotonic() + 60
    while status_actor.ask(actor.begin.remote("a", "read"), otherwise=7) != 7:
        assert time.monotonic() < deadline
    assert "board_lost" in caplog.text
