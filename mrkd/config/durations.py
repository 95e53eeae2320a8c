"""Spans of time as keys and flags hold them: `90d`, `6h`, `45m`, `30s`."""

from __future__ import annotations

import re
from datetime import timedelta

from mrkd.errors import ConfigError

_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_MOST = 10**6


def parse(name: str, text: str) -> timedelta:
    """The span of time that a text names.

    Args:
        name: the key or flag, for the error.
        text: a whole number and its unit, `d`, `h`, `m` or `s`.

    Raises:
        ConfigError: the text has another form.
    """
    match = re.fullmatch(r"([0-9]{1,7})([dhms])", text)
    if match is None or int(match[1]) > _MOST:
        raise ConfigError(
            f"{name} is {text!r}: write a whole number and a unit, as in 90d, 6h, 45m or 30s"
        )
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
