"""The night's line, and the board that knows what processes have in hand."""

import logging
import re
import sys
import time

import pytest
import ray

from mrkd.on_ray import status_actor
from mrkd.on_ray.score.progress import NightBoard, NightProgress


def lines(caplog):
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("night ")]


def test_the_line_tells_what_is_done_at_what_rate_and_until_when(caplog):
    caplog.set_level(logging.INFO, "mrkd")
    with NightProgress("night-1", 100) as progress:
        progress.tell()
        progress.add({"ok": 20, "nok": 4, "decode": 1})
        time.sleep(0.2)
        progress.tell()
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
    with NightProgress("night-1", 100, every_s=0.05):
        time.sleep(0.5)
    assert len(lines(caplog)) > 3


def test_on_a_terminal_there_is_a_bar_in_place_of_lines(caplog, capsys, monkeypatch):
    caplog.set_level(logging.INFO, "mrkd")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with NightProgress("night-1", 4) as progress:
        progress.add({"ok": 2})
        progress.tell()
        progress.add({"nok": 2})
    half, whole = re.findall(r"\r\[([#.]+)\] done=", capsys.readouterr().err)
    assert (half, whole) == ("#" * 15 + "." * 15, "#" * 30)
    assert not lines(caplog)


def test_the_board_counts_how_often_a_step_was_begun_until_it_was_done():
    """Once done it may be wanted again, as its block was lost with a node: that is no death."""
    board = NightBoard()
    begun = [board.begin(*step) for step in (("a", "read"), ("a", "read"), ("b", "read"))]
    assert begun == [1, 2, 1]
    assert board.in_hand() == {"a": 2, "b": 1}
    board.end("b", "read")
    assert [board.begin("b", "read"), board.begin("b", "score")] == [1, 1]
    board.end("b", "read")
    board.end("a", "read")
    assert board.in_hand() == {"b": 1}
    board.clear()
    assert board.in_hand() == {}


def test_the_board_knows_where_a_task_was_last_and_that_it_ran_before():
    board = NightBoard()
    assert board.place("t") == ("start", None)
    assert board.start("t")
    board.put("t", "decode", 3)
    assert board.place("t") == ("decode", 3)
    assert not board.start("t")
    assert board.place("t") == ("decode", 3)


def test_a_board_that_is_gone_costs_its_answer_and_nothing_else(caplog):
    board = status_actor.start(NightBoard)
    assert status_actor.ask(board.begin.remote("a", "read"), otherwise=7) == 1
    ray.kill(board)
    deadline = time.monotonic() + 60
    while status_actor.ask(board.begin.remote("a", "read"), otherwise=7) != 7:
        assert time.monotonic() < deadline
    assert "board_lost" in caplog.text
