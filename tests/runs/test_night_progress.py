"""The night's line, and the status that knows what processes have in hand."""

import logging
import re
import sys
import time

import pytest
import ray

from mrkd.runs.on_ray import status_actor
from mrkd.runs.on_ray.status_actor import StatusActor
from mrkd.runs.progress import NightProgress


def lines(caplog):
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("night ")]


def test_the_line_tells_what_is_done_at_what_rate_and_until_when(caplog):
    caplog.set_level(logging.INFO, "mrkd")
    with NightProgress("night-1", 100).published() as progress:
        progress.publish()
        progress.add({"ok": 20, "nok": 4, "decode": 1})
        time.sleep(0.2)
        progress.publish()
        progress.add({"ok": 75})
    first, second, last = lines(caplog)
    assert first == "night done=0 of=100 rate=0.0/s eta=unknown errors=0"
    rate, eta_s = re.fullmatch(
        r"night done=25 of=100 rate=([\d.]+)/s eta=(\d+)s errors=1", second
    ).groups()
    assert float(rate) <= 125
    assert float(eta_s) == pytest.approx(75 / float(rate), abs=0.6)
    assert re.fullmatch(r"night done=100 of=100 rate=[\d.]+/s eta=0s errors=1", last)


def test_the_line_comes_by_itself_while_nothing_is_done(caplog):
    caplog.set_level(logging.INFO, "mrkd")
    progress = NightProgress("night-1", 100)
    progress.every_s = 0.05
    with progress.published():
        time.sleep(0.5)
    assert len(lines(caplog)) > 3


def test_a_check_that_fails_is_logged_and_made_again_and_ends_neither_the_others_nor_the_line(
    caplog,
):
    caplog.set_level(logging.INFO, "mrkd")
    calls = []

    def fail():
        calls.append("failed")
        raise ZeroDivisionError("a bug of a check")

    progress = NightProgress("night-1", 100)
    progress.every_s = 0.05
    progress.checks += [fail, lambda: calls.append("looked")]
    with progress.published():
        time.sleep(0.5)
    assert calls.count("failed") == calls.count("looked") > 3
    assert "a bug of a check" in caplog.text
    assert len(lines(caplog)) > 3


def test_on_a_terminal_there_is_a_bar_in_place_of_lines(caplog, capsys, monkeypatch):
    caplog.set_level(logging.INFO, "mrkd")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with NightProgress("night-1", 4).published() as progress:
        progress.add({"ok": 2})
        progress.publish()
        progress.add({"nok": 2})
    half, whole = re.findall(r"\r\[([#.]+)\] done=", capsys.readouterr().err)
    assert (half, whole) == ("#" * 15 + "." * 15, "#" * 30)
    assert not lines(caplog)


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
    status = status_actor.start()
    assert status_actor.ask(status.begin.remote("a", "read"), otherwise=7) == 1
    ray.kill(status)
    deadline = time.monotonic() + 60
    while status_actor.ask(status.begin.remote("a", "read"), otherwise=7) != 7:
        assert time.monotonic() < deadline
    assert "board_lost" in caplog.text
