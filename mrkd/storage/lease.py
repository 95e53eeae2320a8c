"""A lock with expiry, stored as a JSON object: its holder renews it, and loses it otherwise.

A takeover compares the clocks of two machines, which must agree to well within `stale_after_s`.
Where they do not, two may hold at once, and so may a holder that was only paused. A lease spares
double work; what is done under it must bear a second worker (a night's commits are conditional).
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from mrkd import storage
from mrkd.errors import MrkdError, NightError, StorageError

log = logging.getLogger(__name__)


class Lease:
    """Holds `uri` within a `with` block; a thread renews it every quarter of `stale_after_s`.

    Args:
        uri: the JSON object.
        stale_after_s: a lease that was not renewed for so long may be taken over; one whose
            process is known to have ended, as it ran on this machine, at once.

    Raises:
        NightError: (on entering) another holds it.
    """

    def __init__(self, uri: str, *, stale_after_s: float = 60.0) -> None:
        self._uri = uri
        self._stale_after_s = stale_after_s
        self._token = uuid.uuid4().hex
        self._lost: NightError | None = None
        self._left = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="mrkd-lease", daemon=True)

    def __enter__(self) -> Self:
        content, etag = self._found() or ({}, None)
        if content and not self._free(content):
            raise self._held_by(content)
        if content and content["state"] != "released":
            log.warning("lease_takeover uri=%s from=%s", self._uri, content["holder"])
        if not self._put("held", etag=etag):
            content, _ = self._found() or ({}, "")
            raise self._held_by(content)
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._keeper.join()
        try:
            self._renew("released")
        except MrkdError as failure:  # what was done stays; the next start waits for stale_after_s
            log.warning("lease_not_released uri=%s reason=%s", self._uri, failure)

    def beat(self) -> None:
        """Renews the lease now.

        Raises:
            NightError: another has taken it over.
            StorageError: it cannot be reached; the lease may still be held.
        """
        self._renew("held")

    @property
    def lost(self) -> bool:
        """Whether a renewal found that another has taken it over."""
        return self._lost is not None

    def check(self) -> None:
        """Does nothing while the lease is held.

        Raises:
            NightError: a renewal found that another has taken it over.
        """
        if self._lost is not None:
            raise self._lost

    def _keep(self) -> None:
        while not self._left.wait(self._stale_after_s / 4):
            try:
                self.beat()
            except NightError as error:
                self._lost = error
                return
            except StorageError as error:
                log.warning("lease_not_renewed uri=%s reason=%s", self._uri, error)

    def _renew(self, state: str) -> None:
        content, etag = self._found() or ({}, "")
        if content.get("token") == self._token:
            if self._put(state, etag=etag):
                return
            content, _ = self._found() or ({}, "")
        holder = content.get("holder", "someone who deleted it")
        raise NightError(
            f"{self._uri} was taken over by {holder}, as it was not renewed for "
            f"{self._stale_after_s:g} s: leave the night to that run; what is committed stays"
        )

    def _put(self, state: str, *, etag: str | None) -> bool:
        content = {
            "state": state,
            "holder": f"{socket.gethostname()} process {os.getpid()}",
            "beat_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "machine": _machine(),
            "process": os.getpid(),
            "token": self._token,
        }
        return storage.write_json(self._uri, content, if_absent=etag is None, if_match=etag)

    def _found(self) -> tuple[dict[str, Any], str] | None:
        """What the lease says, and the ETag of that; None where there is none."""
        if storage.stat(self._uri) is None:
            return None
        data, etag = storage.fetch(self._uri)
        try:
            content = json.loads(data)
            _ = datetime.now(UTC) - datetime.fromisoformat(content["beat_at"])
            _ = [content[name] for name in ("state", "holder", "machine", "process", "token")]
        except (ValueError, KeyError, TypeError) as error:
            raise NightError(
                f"{self._uri} is not a lease: delete it if no run works there"
            ) from error
        return content, etag

    def _free(self, content: dict[str, Any]) -> bool:
        if content["state"] == "released":
            return True
        if content["machine"] and content["machine"] == _machine() and _ended(content["process"]):
            return True
        age = datetime.now(UTC) - datetime.fromisoformat(content["beat_at"])
        return age.total_seconds() > self._stale_after_s

    def _held_by(self, content: dict[str, Any]) -> NightError:
        return NightError(
            f"{self._uri} is held by {content.get('holder')}, renewed at {content.get('beat_at')}: "
            f"wait for that run, or, if it is dead, for {self._stale_after_s:g} s from then"
        )


def _machine() -> str:
    """Within what a process number means something: a boot and a PID namespace; "" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _ended(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's, so it lives
    return False
