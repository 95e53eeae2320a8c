"""Status and gauges of a run, which executors implement: what workers report, what is exported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Status(Protocol):
    """The latest report of each category, made by workers and read by the run."""

    def report(self, name: str, row: Mapping[str, Any]) -> None:
        """Adds values to the report of a name."""

    def reports(self) -> dict[str, dict[str, Any]]:
        """The report of every name; empty where they are lost."""


class Gauge(Protocol):
    """A gauge for Prometheus."""

    def set(self, value: float, tags: dict[str, str]) -> None:
        """Sets the value of a series."""
