"""The fleet's line: what is done, running and queued, and the time that is left."""

import logging
import re
import time

import pytest

from mrkd.runs.progress import FleetProgress
from tests.support.plants import HERE


@pytest.fixture
def status():
    return HERE.new_status()


def progress(status):
    work = {"cap": 100.0, "nut": 100.0, "cog": 200.0}
    steps = dict.fromkeys(work, 50)
    found = FleetProgress("run", work, steps, num_up_to_date=4, status=status, gauge=HERE.gauge)
    found.every_s = 0.1
    return found


def last_line(caplog):
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("fleet ")][-1]


def test_the_line_counts_what_workers_and_the_driver_say(status, caplog):
    caplog.set_level(logging.INFO, "mrkd")
    one = progress(status)
    one.publish()
    assert last_line(caplog) == "fleet done=0 running=0 queued=3 failed=0 up_to_date=4 eta=unknown"
    status.report("cap", {})
    status.report("nut", {"step": 25, "epoch": 1})
    one.publish()
    assert re.fullmatch(
        r"fleet done=0 running=2 queued=1 failed=0 up_to_date=4 eta=\d+s", last_line(caplog)
    )
    one.end("nut", "trained")
    one.end("cap", "failed")
    assert last_line(caplog).startswith("fleet done=1 running=0 queued=1 failed=1 up_to_date=4")


def test_what_is_under_way_has_its_last_row(status):
    one = progress(status)
    status.report("cap", {})
    status.report("cap", {"step": 5, "epoch": 0})
    assert one.under_way() == {"cap": {"step": 5, "epoch": 0}}
    one.end("cap", "trained")
    assert one.under_way() == {}


def test_the_line_comes_by_itself(status, caplog):
    caplog.set_level(logging.INFO, "mrkd")
    until = time.monotonic() + 60
    with progress(status).published():
        while caplog.text.count("fleet done=0") < 4:
            assert time.monotonic() < until
            time.sleep(0.05)
