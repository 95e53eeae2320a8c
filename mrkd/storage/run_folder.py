"""The folder of one run: a JSON record of its config and state, and the files beside it."""

from __future__ import annotations

from typing import Any, ClassVar

from mrkd import storage
from mrkd.config import EvalConfig, TrainConfig
from mrkd.run_summary import now


class RunFolder:
    """The folder of one run of a workspace: `<workspace>/<kind>/<run>/`.

    Args:
        config: configuration of the run.
        uri: the folder; empty: the one that the config names.
    """

    kind: ClassVar[str]
    record: ClassVar[str]
    """File name of the record."""
    version: ClassVar[int]
    """Version of the record's layout."""

    def __init__(self, config: TrainConfig | EvalConfig, uri: str = "") -> None:
        self.config = config
        self.uri = uri or storage.join(config.workspace, self.kind, config.run)

    def path(self, *names: str) -> str:
        """URI of a file or folder of the run."""
        return storage.join(self.uri, *names)

    def read_json(self, *names: str) -> Any:
        """Content of a JSON file; None where it does not exist."""
        uri = self.path(*names)
        return storage.read_json(uri) if storage.stat(uri) else None

    def write_json(self, content: Any, *names: str) -> None:
        """Stores a JSON file."""
        storage.write_json(self.path(*names), content)

    def remove(self, *names: str) -> None:
        """Removes all files of a folder of the run."""
        for file in storage.list_files(self.path(*names)):
            storage.delete(file.uri)

    def write_record(self, state: str, started_at: str, **found: Any) -> None:
        """Stores the record with its state, `running` or how the run ended, and further values."""
        content = {
            "schema": self.version,
            "run": self.config.run,
            "workspace": self.config.workspace,
            "root": self.config.data.root,
            "state": state,
            "started_at": started_at,
            "finished_at": "" if state == "running" else now(),
            "config": self.config.to_dict(),
        }
        self.write_json({**content, **found}, self.record)
