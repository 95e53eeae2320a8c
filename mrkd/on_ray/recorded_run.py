"""How a run ended: the summary that is printed, and stored beside what the run wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from mrkd import storage
from mrkd.errors import ConfigError, MrkdError, StorageError
from mrkd.run_summary import Summary, now
from mrkd.storage.lease import Lease

STATES = {0: "done", 1: "failed", 3: "partial"}


class RecordedRun:
    """Stores the summary of the run inside a `with` block, also where an error ends it.

    A `ConfigError` stores nothing: it says that nothing was started. Nor does the end of a run that
    lost its lease: the verdict is that of the new holder.

    Args:
        command: the verb.
        run: name of the run.
        folder: URI of what the run writes; its `summary.json` is the verdict.
        lease: that the run holds, if it needs one.
    """

    def __init__(self, command: str, run: str, folder: str, lease: Lease | None = None) -> None:
        self._command, self._run, self._lease = command, run, lease
        self._uri = storage.join(folder, "summary.json")
        self._started_at = now()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lost = self._lease is not None and self._lease.lost
        if isinstance(error, MrkdError) and not isinstance(error, ConfigError) and not lost:
            with suppress(StorageError):  # the first error is the one to tell
                self.end(error.exit_code, reasons=[str(error)])

    def end(
        self,
        exit_code: int,
        *,
        counts: Mapping[str, int] | None = None,
        uris: Mapping[str, str] | None = None,
        reasons: Sequence[str] = (),
        stored: bool = True,
    ) -> Summary:
        """The summary of a run that ends now, stored unless told otherwise; else as `Summary`."""
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
        return summary
