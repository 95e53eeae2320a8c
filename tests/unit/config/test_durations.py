"""Spans of time as people write them."""

from datetime import timedelta

import pytest

from mrkd.config import durations
from mrkd.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"), [("90d", 90 * 86400), ("6h", 21600), ("45m", 2700), ("30s", 30), ("0s", 0)]
)
def test_a_number_and_its_unit_are_a_span(text, seconds):
    assert durations.parse("--x", text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "90", "d", "1.5h", "-1d", "1w", "1 d", "9999999d", "1d2h"])
def test_anything_else_is_refused_with_its_name(text):
    with pytest.raises(ConfigError, match=r"--older-than is .*: write a whole number and a unit"):
        durations.parse("--older-than", text)
