"""Nights by date: `{date}` in a night's run and URIs, and earlier days whose images arrived late.

`{date}` becomes 2026-11-23, and `{date:%Y/%m/%d}` the day in that format of strftime. In
`archive.template` it is a field of the images' keys like any other, and is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from datetime import date, timedelta
from typing import Any

from mrkd.config import durations
from mrkd.config.toml import flattened, put_values
from mrkd.errors import ConfigError

KEYS = ("run", "archive.uri", "archive.manifest", "golden.uri")
"""Keys of a night's config whose values may hold a date."""

_DATE = re.compile(r"\{date(?::([^{}]*))?\}")
_MOST_DAYS = 366


def day_of(text: str) -> date:
    """The day of a `--date`, as in 2026-11-23.

    Raises:
        ConfigError: the text is not a day.
    """
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"--date is {text!r}: write a day as 2026-11-23") from error


def fill(raw: Mapping[str, Any], day: date | None) -> dict[str, Any]:
    """A night's tables with its date put in.

    Args:
        raw: the tables of the file, with the flags set.
        day: the night's day; None: no day was given.

    Raises:
        ConfigError: a value holds `{date}` and no day was given, or a day was given and the run's
            name holds no `{date}`, so that all days would be one night.
    """
    values = flattened(raw)
    dated = {
        key: values[key]
        for key in KEYS
        if isinstance(values.get(key), str) and _DATE.search(values[key])
    }
    if day is None:
        for key, value in dated.items():
            raise ConfigError(f"{key} is {value!r}: give its date, as in --date 2026-11-23")
        return deepcopy(dict(raw))
    if "run" not in dated:
        raise ConfigError(
            f"--date is given, and run is {values.get('run')!r}: write the date into its name, as "
            "in night-{date}, or every day would go on with one night"
        )
    filled = deepcopy(dict(raw))
    put_values(filled, {key: _filled(key, value, day) for key, value in dated.items()})
    return filled


def days_before(raw: Mapping[str, Any], day: date | None, window: str) -> list[date]:
    """The days whose late images count with those of a day, the newest first.

    Args:
        raw: tables of the night, not filled.
        day: the night's day; None: no day was given.
        window: a span of whole days, such as 3d.

    Raises:
        ConfigError: no day was given, the window is not such a span, or neither URI of the archive
            holds a date.
    """
    if day is None:
        raise ConfigError("--late-window counts back from --date, which is not given")
    span = durations.parse("--late-window", window)
    if span % timedelta(days=1) or not 1 <= span.days <= _MOST_DAYS:
        raise ConfigError(f"--late-window is {window!r}: write 1 to {_MOST_DAYS} whole days, as 3d")
    if (day - date.min) < span:
        raise ConfigError(f"--late-window {window} counts back from {day} past the year 1")
    values = flattened(raw)
    uris = [values.get(key) for key in ("archive.uri", "archive.manifest")]
    if not any(isinstance(uri, str) and _DATE.search(uri) for uri in uris):
        raise ConfigError(
            "--late-window looks through the days before, and neither archive.uri nor "
            "archive.manifest holds a {date}: every day would be the whole archive"
        )
    return [day - timedelta(days=number) for number in range(1, span.days + 1)]


def _filled(key: str, text: str, day: date) -> str:
    try:
        return _DATE.sub(lambda m: day.strftime(m[1]) if m[1] else day.isoformat(), text)
    except ValueError as error:
        raise ConfigError(
            f"{key} is {text!r}: its date has no format of strftime, such as {{date:%Y/%m/%d}}"
        ) from error
