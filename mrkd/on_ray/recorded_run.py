"""Recorded run: its summary is printed, and stored beside its output, however it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from mrkd import storage
from mrkd.errors import ConfigError, MrkdError, StoppedError, StorageError
from mrkd.on_ray import cluster
from mrkd.run_summary import Summary, now
from mrkd.storage.lease import Lease

STATES = {0: "done", 1: "failed", 3: "partial"}
_NOUNS = {"train": "fleet", "tune": "search", "score": "night", "evaluate": "evaluation"}


class RecordedRun:
    """One start of a run and its `summary.json`; made by `recorded_run`.

    Args:
        command: the verb.
        run: name of the run.
        uri: URI of the summary.

    Attributes:
        earlier: bytes of an earlier start's summary; None where there is none.
    """

    def __init__(self, command: str, run: str, uri: str) -> None:
        self._command, self._run, self._uri = command, run, uri
        self._started_at = now()
        self.earlier = storage.read(uri) if storage.stat(uri) else None

    @property
    def had_ended(self) -> bool:
        """Whether an earlier start came to its end."""
        with suppress(ValueError):  # a damaged summary counts for none
            return json.loads(self.earlier or b"{}").get("state") in ("done", "partial")
        return False

    def restore(self) -> None:
        """Stores the summary of the earlier start again, if there was one."""
        if self.earlier is not None:
            storage.write(self._uri, self.earlier)

    def end(
        self,
        exit_code: int,
        *,
        counts: Mapping[str, int] | None = None,
        uris: Mapping[str, str] | None = None,
        reasons: Sequence[str] = (),
        stored: bool = True,
    ) -> Summary:
        """The summary of a run that ends now; further arguments are those of `Summary`.

        Args:
            exit_code: exit code of the command.
            counts: numbers by name.
            uris: URIs of the output by kind.
            reasons: lines for the reader.
            stored: whether it is stored; otherwise the earlier summary is stored again.
        """
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

    An earlier start's summary is removed first: without one, a run is under way or was killed. A
    `ConfigError` restores it, since nothing was started. A run that lost its lease stores nothing:
    the summary is the new holder's.

    Args:
        command: the verb.
        run: name of the run.
        folder: URI of the folder that the run writes to.
        lease: lease that the run holds, if it needs one.

    Raises:
        StoppedError: SIGTERM or SIGINT ended the block; the same command goes on.
    """
    record = RecordedRun(command, run, storage.join(folder, "summary.json"))
    storage.delete(storage.join(folder, "summary.json"))
    try:
        try:
            with cluster.stoppable():
                yield record
        except KeyboardInterrupt as error:
            noun = _NOUNS.get(command, command)
            raise StoppedError(f"the {noun} was stopped: start it again to go on") from error
    except ConfigError:
        record.restore()
        raise
    except MrkdError as error:
        if lease is None or not lease.lost:
            with suppress(StorageError):  # the first error is the one to report
                record.end(error.exit_code, reasons=[str(error)])
        raise
