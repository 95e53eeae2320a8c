"""Stored rows to pages: self-contained HTML that asks no network for anything.

`evaluation_page`, `study_page`, `fleet_page`, `night_page`, `comparison_page` and `search_page`
render values (`PageData`, `FleetData`, `NightData`, ...), `load_page_data`, `load_fleet_data` and
their like read them from a run's folder; `write_page` does both and stores the page.
"""

from __future__ import annotations

from collections.abc import Callable

from mrkd import storage
from mrkd.errors import StorageError
from mrkd.reports.ablation import load as load_study
from mrkd.reports.ablation.load import load_study_data
from mrkd.reports.ablation.markdown import study_markdown
from mrkd.reports.ablation.page import study_page
from mrkd.reports.ablation.values import StudyData
from mrkd.reports.comparison import load as load_comparison
from mrkd.reports.comparison.load import load_comparison_data
from mrkd.reports.comparison.page import comparison_page
from mrkd.reports.comparison.values import ComparisonData
from mrkd.reports.evaluation import load as load_evaluation
from mrkd.reports.evaluation.load import load_page_data
from mrkd.reports.evaluation.page import evaluation_page
from mrkd.reports.evaluation.values import PageData
from mrkd.reports.fleet import load as load_fleet
from mrkd.reports.fleet.load import load_fleet_data
from mrkd.reports.fleet.page import fleet_page
from mrkd.reports.fleet.values import FleetData
from mrkd.reports.image_history.page import history_page
from mrkd.reports.night import load as load_night
from mrkd.reports.night.load import load_night_data
from mrkd.reports.night.page import night_page
from mrkd.reports.night.values import NightData
from mrkd.reports.search import load as load_search
from mrkd.reports.search.load import load_search_data
from mrkd.reports.search.page import search_page
from mrkd.reports.search.values import SearchData

__all__ = [
    "ComparisonData",
    "FleetData",
    "NightData",
    "PageData",
    "SearchData",
    "StudyData",
    "comparison_page",
    "evaluation_page",
    "fleet_page",
    "history_page",
    "load_comparison_data",
    "load_fleet_data",
    "load_night_data",
    "load_page_data",
    "load_search_data",
    "load_study_data",
    "night_page",
    "search_page",
    "study_markdown",
    "study_page",
    "write_comparison_page",
    "write_evaluation_page",
    "write_fleet_page",
    "write_night_page",
    "write_page",
    "write_search_page",
    "write_study_page",
]


def write_page(run_uri: str) -> str:
    """Writes `report.html` into the folder of a run, from what is stored there.

    Args:
        run_uri: `<workspace>/evaluations/<run>`, `<workspace>/fleets/<run>`,
            `<workspace>/nights/<run>`, `<workspace>/searches/<run>` or
            `<workspace>/comparisons/<A>--<B>`.

    Returns:
        URI of the page.

    Raises:
        StorageError: there is no record of any of these in the folder.
        MrkdError: as `load_page_data` and its like, or the page cannot be written.
    """
    writers: dict[str, Callable[[str], str]] = {
        load_evaluation.RECORD: write_evaluation_page,
        load_fleet.RECORD: write_fleet_page,
        load_comparison.RECORD: write_comparison_page,
        load_night.RECORD: write_night_page,
        load_search.RECORD: write_search_page,
        load_study.RECORD: write_study_page,
    }
    for name, write in writers.items():
        if storage.stat(storage.join(run_uri, name)):
            return write(run_uri)
    raise StorageError(
        f"{run_uri} holds neither {' nor '.join(writers)}: give the folder of an evaluation, a "
        "fleet, a search, a comparison or a closed night",
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


def write_night_page(night_uri: str, data: NightData | None = None) -> str:
    """Writes `report.html` into a night's folder, and its profile, if none of today stands there.

    Args:
        night_uri: `<workspace>/nights/<run>`.
        data: what `load_night_data` found there; None: it is read.

    Returns:
        URI of the page.

    Raises:
        MrkdError: as `load_night_data`, or the page cannot be written.
    """
    return _write(night_uri, night_page(data or load_night_data(night_uri)))


def write_comparison_page(comparison_uri: str) -> str:
    """Writes `report.html` into a comparison's folder.

    Args:
        comparison_uri: `<workspace>/comparisons/<A>--<B>`.

    Returns:
        URI of the page.

    Raises:
        MrkdError: as `load_comparison_data`, or the page cannot be written.
    """
    return _write(comparison_uri, comparison_page(load_comparison_data(comparison_uri)))


def write_search_page(search_uri: str) -> str:
    """Writes `report.html` into a search's folder.

    Args:
        search_uri: `<workspace>/searches/<run>`.

    Returns:
        URI of the page.

    Raises:
        MrkdError: as `load_search_data`, or the page cannot be written.
    """
    return _write(search_uri, search_page(load_search_data(search_uri)))


def write_study_page(study_uri: str) -> str:
    """Writes `report.html` and `tables.md` into the folder of an evaluation that trained.

    Args:
        study_uri: `<workspace>/evaluations/<run>`.

    Returns:
        URI of the page.

    Raises:
        MrkdError: as `load_study_data`, or the page cannot be written.
    """
    data = load_study_data(study_uri)
    storage.write(storage.join(study_uri, "tables.md"), study_markdown(data).encode())
    return _write(study_uri, study_page(data))


def _write(run_uri: str, page: str) -> str:
    page_uri = storage.join(run_uri, "report.html")
    storage.write(page_uri, page.encode())
    return page_uri
