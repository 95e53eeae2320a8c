"""LABELS.csv: reviewers' verdicts on images, a line each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from mrkd import storage
from mrkd.data.tables import read_table
from mrkd.errors import ConfigError, StorageError

Call = Literal["OK", "NOK"]

COLUMNS = ("uri", "verdict", "who", "when")
_FASTEST_CLOCK = timedelta(minutes=10)
_EAST = timedelta(hours=14)
"""By as much a day, or a time without an offset, may lie ahead of UTC: it is a local one."""
_VERDICTS: dict[str, Call] = {"OK": "OK", "NOK": "NOK"}


@dataclass(frozen=True)
class Label:
    """One person's verdict on one image.

    Args:
        image_uri: URI as nights list it.
        verdict: OK, or NOK for a part with a defect.
        by: person who gave the verdict.
        at: time of the verdict, UTC, ISO 8601.
    """

    image_uri: str
    verdict: Call
    by: str
    at: str


def read_labels(uri: str) -> list[Label]:
    """The verdicts in a file, one for each image: of several the newest.

    Columns of other names are passed over.

    Raises:
        ConfigError: the file does not exist, or a line is not valid; with the line.
        StorageError: it cannot be read.
    """
    newest: dict[str, Label] = {}
    for row in read_table(uri, COLUMNS):
        if any(row.values.values()):
            _keep(newest, _label(row.values, row.where))
    if not newest:
        raise ConfigError(f"{uri} holds no verdict: write a line for each image below the names")
    return list(newest.values())


def _label(values: Mapping[str, str], where: str) -> Label:
    for name in ("uri", "who"):
        if not values[name]:
            raise ConfigError(f"{where}: {name} is empty")
    verdict = _VERDICTS.get(values["verdict"].upper())
    if verdict is None:
        raise ConfigError(
            f"{where}: verdict is {values['verdict']!r}: write OK, or NOK for a part with a defect"
        )
    try:
        at = datetime.fromisoformat(values["when"])
        ahead = _FASTEST_CLOCK if at.tzinfo else _EAST
        at = at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"{where}: when is {values['when']!r}: write it as 2026-11-24 or 2026-11-24T06:30 "
            "(UTC, unless it says otherwise as in 06:30+01:00)"
        ) from error
    if at > datetime.now(UTC) + ahead:
        # It would outrank every verdict until then.
        raise ConfigError(
            f"{where}: when is {values['when']!r}, which is in the future: correct it"
        )
    try:
        uri = storage.join(values["uri"])
    except StorageError as error:
        raise ConfigError(f"{where}: {error}") from error
    return Label(uri, verdict, " ".join(values["who"].split()), at.isoformat(timespec="seconds"))


def _keep(newest: dict[str, Label], label: Label) -> None:
    before = newest.get(label.image_uri)
    if before and before.at == label.at and before.verdict != label.verdict:
        raise ConfigError(
            f"{label.image_uri} is OK and NOK at one time ({label.at}): keep one, or tell them "
            "apart by their time"
        )
    if before is None or label.at >= before.at:
        newest[label.image_uri] = label
