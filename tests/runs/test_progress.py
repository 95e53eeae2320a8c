"""The fleet's line: what is done, running and queued, and the time that is left."""

import logging
import re
import time

import pytest
import ray
from ray.exceptions import RayActorError

from mrkd.runs.on_ray import status_actor
from mrkd.runs.progress import FleetProgress


@pytest.fixture
def status():
    return status_actor.start()


def progress(status):
    work = {"cap": 100.0, "nut": 100.0, "cog": 200.0}
    steps = dict.fromkeys(work, 50)
    found = FleetProgress("run", work, steps, num_up_to_date=4, status=status)
    found.every_s = 0.1
    return found


def kill(status):
    """Ends the actor for good, unlike a crash, after which it is started anew, and sees it gone."""
    ray.kill(status)  # returns before the process has ended, which may still answer
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            ray.get(status.reports.remote(), timeout=60)
        except RayActorError:
            return
    raise TimeoutError("the actor still answers")


def last_line(caplog):
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("fleet ")][-1]


def test_the_line_counts_what_workers_and_the_driver_say(status, caplog):
    caplog.set_level(logging.INFO, "mrkd")
    one = progress(status)
    one.publish()
    assert last_line(caplog) == "fleet done=0 running=0 queued=3 failed=0 up_to_date=4 eta=unknown"
    ray.get(
        [status.report.remote("cap", {}), status.report.remote("nut", {"step": 25, "epoch": 1})]
    )
    one.publish()
    assert re.fullmatch(
        r"fleet done=0 running=2 queued=1 failed=0 up_to_date=4 eta=\d+s", last_line(caplog)
    )
    one.end("nut", "trained")
    one.end("cap", "failed")
    assert last_line(caplog).startswith("fleet done=1 running=0 queued=1 failed=1 up_to_date=4")


def test_what_is_under_way_has_its_last_row(status):
    one = progress(status)
    ray.get([status.report.remote("cap", {}), status.report.remote("cap", {"step": 5, "epoch": 0})])
    assert one.under_way() == {"cap": {"step": 5, "epoch": 0}}
    one.end("cap", "trained")
    assert one.under_way() == {}


def test_a_lost_status_costs_its_words_and_nothing_else(status, caplog):
    caplog.set_level(logging.INFO, "mrkd")
    one = progress(status)
    ray.get(status.report.remote("cap", {}))
    kill(status)
    assert one.under_way() == {}
    one.end("cap", "trained")
    assert "board_lost" in caplog.text
    assert last_line(caplog).startswith("fleet done=1 running=0 queued=2")


def test_the_line_comes_by_itself(status, caplog):
    caplog.set_level(logging.INFO, "mrkd")
    until = time.monotonic() + 60
    with progress(status).published():
        while caplog.text.count("fleet done=0") < 4:
            assert time.monotonic() < until
            time.sleep(0.05)
