"""The night's line."""

import logging
import re
import sys
import time

import pytest

from mrkd.runs.progress import NightProgress
from tests.support.plants import HERE


def night_progress(num_images):
    return NightProgress("night-1", num_images, HERE.gauge)


def lines(caplog):
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("night ")]


def test_the_line_tells_what_is_done_at_what_rate_and_until_when(caplog):
    caplog.set_level(logging.INFO, "mrkd")
    with night_progress(100).published() as progress:
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
    progress = night_progress(100)
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

    progress = night_progress(100)
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
    with night_progress(4).published() as progress:
        progress.add({"ok": 2})
        progress.publish()
        progress.add({"nok": 2})
    half, whole = re.findall(r"\r\[([#.]+)\] done=", capsys.readouterr().err)
    assert (half, whole) == ("#" * 15 + "." * 15, "#" * 30)
    assert not lines(caplog)
