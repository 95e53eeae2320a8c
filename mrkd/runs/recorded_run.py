"""Recorded run: its summary is printed, and stored beside its output, however it ends."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

from mrkd import storage
from mrkd.errors import ConfigError, MrkdError, StoppedError, StorageError
from mrkd.run_summary import Summary, now
from mrkd.storage.lease import Lease

STATES = {0: "done", 1: "failed", 3: "partial"}
_STOP_S = 2.0
_NOUNS = {"train": "fleet", "tune": "search", "score": "night", "evaluate": "evaluation"}


class RecordedRun:
    """One start of a run, made by `recorded_run`; it takes away the summary of an earlier start.

    Attributes:
        had_ended: whether an earlier start came to its end.
    """

    def __init__(self, command: str, run: str, folder: str) -> None:
        self._command, self._run, self._started_at = command, run, now()
        self._uri = storage.join(folder, "summary.json")
        self._earlier = storage.read(self._uri) if storage.stat(self._uri) else b""
        self.had_ended = False
        with suppress(ValueError):  # none, or a damaged one
            self.had_ended = json.loads(self._earlier)["state"] in ("done", "partial")
        storage.delete(self._uri)

    def restore(self) -> None:
        """Stores the summary of the earlier start again, if there was one."""
        if self._earlier:
            storage.write(self._uri, self._earlier)

    def end(
        self,
        exit_code: int,
        *,
        counts: Mapping[str, int] | None = None,
        uris: Mapping[str, str] | None = None,
        reasons: Sequence[str] = (),
        stored: bool = True,
    ) -> Summary:
        """The `Summary` of a run that ends now; stored, or else the earlier one is again."""
        summary = Summary(
            command=self._command,
            run=self._run,
            exit_code=exit_code,
            state=STATES[exit_code],
            counts=counts or {},
            uris={**(uris or {}), "summary": self._uri},
            started_at=self._started_at,
            finished_at=now(),
            reasons=[" ".join(reason.split()) for reason in reasons],
        )
        if stored:
            storage.write_json(self._uri, summary.to_dict())
        else:
            self.restore()
        return summary


@contextmanager
def recorded_run(
    command: str, run: str, folder: str, lease: Lease | None = None
) -> Iterator[RecordedRun]:
    """Stores the summary of the run inside a `with` block, also where an error or a signal ends it.

    An earlier start's summary is removed from the folder first: without one, a run is under way or
    was killed. A `ConfigError` restores it, since nothing was started. A run that lost its lease
    stores nothing: the summary is the new holder's.

    Raises:
        StoppedError: SIGTERM or SIGINT ended the block; the same command goes on.
    """
    record = RecordedRun(command, run, folder)
    stopped = StoppedError(
        f"the {_NOUNS.get(command, command)} was stopped: start it again to go on"
    )

    def failed(error: MrkdError) -> None:
        if lease is None or not lease.lost:
            with suppress(StorageError):  # the first error is the one to report
                record.end(error.exit_code, reasons=[str(error)])

    try:
        try:
            with stoppable(lambda: failed(stopped)):
                yield record
        except KeyboardInterrupt as error:
            raise stopped from error
    except ConfigError:
        record.restore()
        raise
    except MrkdError as error:
        failed(error)
        raise


@contextmanager
def stoppable(stopped: Callable[[], None]) -> Iterator[None]:
    """Turns SIGTERM, by which schedulers and `ray job stop` end a job, into a KeyboardInterrupt.

    Outside of the main thread, where Python handles no signals, it changes nothing.

    Args:
        stopped: called at the signal, since SIGKILL follows after 3 s; in a thread of its own, as
            the one that was interrupted may hold a lock that the call needs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> NoReturn:
        thread = threading.Thread(target=stopped, daemon=True)
        thread.start()
        thread.join(_STOP_S)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
