"""Alerts of a night (error share, NOK rate, silent lines, drift), each sent once to a webhook.

    nights/<run>/alerts.json     every alert of the night, and when it was sent

A webhook gets the new alerts of a start in one POST, as JSON: `run`, `text`, which chat programmes
show, and `alerts`. Its URL holds a secret and so comes from the environment. What could not be sent
is sent by the night's next start.
"""

from __future__ import annotations

import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from mrkd import storage
from mrkd.config import AlertsConfig
from mrkd.errors import ArtefactError, ConfigError
from mrkd.nights.drift import Compared, Lights
from mrkd.run_summary import now

log = logging.getLogger(__name__)

RECORD = "alerts.json"
ALERTS_VERSION = 1

_PAUSES_S = (1.0, 4.0)
"""Before a POST is repeated that failed for what may pass."""
_TIMEOUT_S = 10
_DRIFTS = {
    "quality": ("drift_pictures", "pictures"),
    "scores": ("drift_scores", "scores of good parts"),
    "nok_rate": ("drift_nok_rate", "NOK rate"),
}


@dataclass(frozen=True)
class Alert:
    """One thing that asks for somebody.

    Args:
        kind: nok_rate, error_share, silent_line, drift_pictures, drift_scores, drift_nok_rate, or
            late, which is of the whole night.
        category: category of the images; empty for an alert of the whole night.
        line: line that they came from; empty where the template names none.
        text: one line for a reader.
        value: measured value; None where the alert has none.
        limit: limit from the config; None where the alert has none.
        at: time when it was found, UTC, ISO 8601.
        sent_at: time when the webhook took it; None: not yet, or the config names no webhook.
    """

    kind: str
    category: str
    line: str
    text: str
    value: float | None = None
    limit: float | None = None
    at: str = ""
    sent_at: str | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Kind, category and line, under which a night sends one alert only."""
        return self.kind, self.category, self.line


def read(night_uri: str) -> tuple[Alert, ...]:
    """The alerts in a night's folder.

    Raises:
        ArtefactError: their file is not a record of alerts.
        StorageError: it cannot be read.
    """
    uri = storage.join(night_uri, RECORD)
    if storage.stat(uri) is None:
        return ()
    try:
        return tuple(Alert(**one) for one in storage.read_json(uri)["alerts"])
    except (TypeError, KeyError) as error:
        raise ArtefactError(f"{uri} is not a record of alerts: delete it") from error


def find(
    compared: Sequence[Compared],
    lights: Mapping[tuple[str, str], Lights],
    config: AlertsConfig,
) -> list[Alert]:
    """The alerts of a night, by the limits of its config."""
    return [alert for row in compared for alert in _of_group(row, lights, config)]


def tell(
    night_uri: str, run: str, found: Sequence[Alert], config: AlertsConfig
) -> tuple[tuple[Alert, ...], str]:
    """Stores the new alerts of a night and sends those that were not sent.

    The caller holds the night's lease.

    Returns:
        All alerts of the night, and why the webhook did not take them; empty where it did.

    Raises:
        ArtefactError: the record is damaged.
        StorageError: it cannot be read or written.
    """
    before, failure = read(night_uri), ""
    known = {one.key for one in before}
    new = tuple(replace(one, at=now()) for one in found if one.key not in known)
    alerts = before + new
    unsent = [one for one in alerts if one.sent_at is None]
    if unsent and config.webhook:
        failure = _post(url_of(config), run, unsent, config.webhook)
        if not failure:
            alerts = tuple(replace(one, sent_at=one.sent_at or now()) for one in alerts)
    if alerts != before:
        content = {"schema": ALERTS_VERSION, "run": run, "alerts": list(map(asdict, alerts))}
        storage.write_json(storage.join(night_uri, RECORD), content)
    for one in new:
        log.warning("alert run=%s kind=%s %s", run, one.kind, one.text)
    return alerts, failure


def url_of(config: AlertsConfig) -> str:
    """The webhook's URL, from the environment; empty where the config names none.

    Raises:
        ConfigError: the variable is not set, or holds no http URL.
    """
    if not config.webhook:
        return ""
    url = os.environ.get(config.webhook, "")
    if not url.startswith(("https://", "http://")):
        raise ConfigError(
            f"alerts.webhook names the environment variable {config.webhook!r}, which "
            f"{'holds no http URL' if url else 'is not set'}: set it where the driver runs"
        )
    return url


def _of_group(
    row: Compared, lights: Mapping[tuple[str, str], Lights], config: AlertsConfig
) -> Iterator[Alert]:
    """The alerts of a category and line."""
    place, name = (row.category, row.line), row.name
    if row.tonight is None:
        if config.silent_lines and row.silent:
            came = f"in {len(row.before)} of {row.num_nights} nights before there were some"
            yield Alert("silent_line", *place, f"{name}: no images; {came}")
        return
    share, limit = row.tonight.error_rate, config.error_share
    if share > limit:
        most = max(row.tonight.errors, key=row.tonight.errors.__getitem__, default="")
        text = f"{name}: {share:.1%} of the images have no score, most of them {most}"
        yield Alert("error_share", *place, text, share, limit)
    rate, limit = row.tonight.nok_rate, config.nok_rate
    if rate is not None and limit and rate > limit:
        yield Alert("nok_rate", *place, f"{name}: {rate:.1%} are NOK", rate, limit)
    own = lights.get(place)
    for aspect, (kind, words) in _DRIFTS.items() if own else ():
        light = Lights.worst(getattr(own, aspect))
        if light == "red" or light == config.drift:
            yield Alert(kind, *place, f"{name}: drift of {words} ({light})")


def _post(url: str, run: str, alerts: Sequence[Alert], variable: str) -> str:
    """Why the webhook did not take the alerts; empty where it did."""
    lines = "\n".join(f"- {one.text}" for one in alerts)
    content = {"run": run, "text": f"{run}\n{lines}", "alerts": [asdict(one) for one in alerts]}
    request = urllib.request.Request(
        url, json.dumps(content).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    for pause in (*_PAUSES_S, None):
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S):
                return ""
        except urllib.error.HTTPError as error:
            reason, passing = f"answered {error.code}", error.code >= 500 or error.code == 429
        except OSError as error:  # URLError, a timeout, a connection that broke
            reason, passing = f"cannot be reached ({type(error).__name__})", True
        if pause is None or not passing:
            break
        time.sleep(pause)
    # Without the URL, which holds a secret.
    return f"the webhook of {variable} {reason}: {len(alerts)} alerts wait for the next start"
