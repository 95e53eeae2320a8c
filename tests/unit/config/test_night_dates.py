"""Dates in a night's names and places."""

from datetime import date
from typing import Any

import pytest

from mrkd.config import night_dates
from mrkd.errors import ConfigError

DAY = date(2026, 11, 23)
NIGHT = {
    "workspace": "s3://plant/{date}",
    "run": "night-{date}",
    "archive": {
        "uri": "s3://plant/{date:%Y/%m/%d}/",
        "template": "{category}/{date}/{name}",
        "tars": [".tar"],
    },
}


def test_the_day_stands_in_run_and_places_and_a_template_keeps_its_own_field():
    filled = night_dates.fill(NIGHT, DAY)
    assert filled == {
        "workspace": "s3://plant/{date}",
        "run": "night-2026-11-23",
        "archive": {
            "uri": "s3://plant/2026/11/23/",
            "template": "{category}/{date}/{name}",
            "tars": [".tar"],
        },
    }
    assert night_dates.fill(NIGHT, date(2026, 11, 22))["archive"]["uri"] == "s3://plant/2026/11/22/"


def test_a_night_without_dates_needs_none():
    plain = {"run": "night-1", "archive": {"uri": "a{b}", "template": "{date}/{name}"}}
    assert night_dates.fill(plain, None) == plain


@pytest.mark.parametrize("key", night_dates.KEYS)
def test_a_date_that_is_wanted_and_not_given_is_asked_for(key):
    raw: dict[str, Any] = {"run": "night"}
    *parents, leaf = key.split(".")
    (raw.setdefault(parents[0], {}) if parents else raw)[leaf] = "x-{date}"
    with pytest.raises(ConfigError, match=rf"{key} is 'x-{{date}}': give its date"):
        night_dates.fill(raw, None)


def test_days_that_would_all_be_one_night_are_refused():
    with pytest.raises(ConfigError, match="run is 'night': write the date into its name"):
        night_dates.fill({**NIGHT, "run": "night"}, DAY)


@pytest.mark.parametrize("text", ["yesterday", "23.11.2026", "2026-13-01", ""])
def test_what_is_no_day_is_refused(text):
    with pytest.raises(ConfigError, match="--date is"):
        night_dates.day_of(text)


def test_a_window_is_the_days_before_the_newest_first():
    march = date(2028, 3, 1)
    assert night_dates.days_before(NIGHT, march, "2d") == [date(2028, 2, 29), date(2028, 2, 28)]


@pytest.mark.parametrize(
    ("raw", "day", "window", "words"),
    [
        (NIGHT, None, "3d", "counts back from --date"),
        (NIGHT, DAY, "36h", "whole days"),
        (NIGHT, DAY, "0d", "1 to 366 whole days"),
        (NIGHT, DAY, "400d", "1 to 366 whole days"),
        (NIGHT, DAY, "3", "a whole number and a unit"),
        ({"run": "n-{date}", "archive": {"uri": "s3://a"}}, DAY, "3d", "the whole archive"),
        ({"run": "n-{date}", "archive": "s3://{date}"}, DAY, "3d", "the whole archive"),
    ],
)
def test_a_window_that_says_nothing_is_refused(raw, day, window, words):
    with pytest.raises(ConfigError, match=words):
        night_dates.days_before(raw, day, window)
