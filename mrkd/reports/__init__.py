"""Stored rows to pages: self-contained HTML that asks no network for anything.

`evaluation_page` and `fleet_page` render values (`PageData`, `FleetData`), `load_page_data` and
`load_fleet_data` read them from a run's folder; `write_page` does both and stores the page.
"""

from __future__ import annotations

from collections.abc import Callable

from mrkd import storage
from mrkd.errors import StorageError
from mrkd.reports import load_evaluation, load_fleet
from mrkd.reports.content import PageData
from mrkd.reports.evaluation import evaluation_page
from mrkd.reports.fleet import fleet_page
from mrkd.reports.fleet_content import FleetData
from mrkd.reports.load_evaluation import load_page_data
from mrkd.reports.load_fleet import load_fleet_data

__all__ = [
    "FleetData",
    "PageData",
    "evaluation_page",
    "fleet_page",
    "load_fleet_data",
    "load_page_data",
    "write_evaluation_page",
    "write_fleet_page",
    "write_page",
]


def write_page(run_uri: str) -> str:
    """Writes `report.html` into the folder of an evaluation or a fleet, from what is stored there.

    Args:
        run_uri: `<workspace>/evaluations/<run>` or `<workspace>/fleets/<run>`.

    Returns:
        URI of the page.

    Raises:
        StorageError: there is no record of either in the folder.
        MrkdError: as `load_page_data` and `load_fleet_data`, or the page cannot be written.
    """
    writers: dict[str, Callable[[str], str]] = {
        load_evaluation.RECORD: write_evaluation_page,
        load_fleet.RECORD: write_fleet_page,
    }
    for name, write in writers.items():
        if storage.stat(storage.join(run_uri, name)):
            return write(run_uri)
    raise StorageError(
        f"{run_uri} holds neither {' nor '.join(writers)}: give the folder of an evaluation or of "
        "a fleet",
        "missing",
    )


def write_evaluation_page(evaluation_uri: str, *, night_uri: str = "") -> str:
    """Writes `report.html` into an evaluation's folder.

    Args:
        evaluation_uri: `<workspace>/evaluations/<run>`.
        night_uri: `<workspace>/nights/<run>` of a night to show beside it; empty: none.

    Returns:
        URI of the page.

    Raises:
        MrkdError: as `load_page_data`, or the page cannot be written.
    """
    return _write(
        evaluation_uri, evaluation_page(load_page_data(evaluation_uri, night_uri=night_uri))
    )


def write_fleet_page(fleet_uri: str) -> str:
    """Writes `report.html` into a fleet's folder.

    Args:
        fleet_uri: `<workspace>/fleets/<run>`.

    Returns:
        URI of the page.

    Raises:
        MrkdError: as `load_fleet_data`, or the page cannot be written.
    """
    return _write(fleet_uri, fleet_page(load_fleet_data(fleet_uri)))


def _write(run_uri: str, page: str) -> str:
    page_uri = storage.join(run_uri, "report.html")
    storage.write(page_uri, page.encode())
    return page_uri
