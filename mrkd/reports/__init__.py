"""Stored rows to pages: self-contained HTML that asks no network for anything.

`evaluation_page` renders values (`PageData`), `load_page_data` reads them from an evaluation's
folder, and `write_evaluation_page` does both and stores the page.
"""

from __future__ import annotations

from mrkd import storage
from mrkd.reports.content import PageData
from mrkd.reports.evaluation import evaluation_page
from mrkd.reports.load import load_page_data

__all__ = ["PageData", "evaluation_page", "load_page_data", "write_evaluation_page"]


def write_evaluation_page(evaluation_uri: str, *, night_uri: str = "") -> str:
    """Writes `report.html` into an evaluation's folder, from what is stored there.

    Args:
        evaluation_uri: `<workspace>/evaluations/<run>`.
        night_uri: `<workspace>/nights/<run>` of a night to show beside it; empty: none.

    Returns:
        URI of the page.

    Raises:
        MrkdError: as `load_page_data`, or the page cannot be written.
    """
    page_uri = storage.join(evaluation_uri, "report.html")
    page = evaluation_page(load_page_data(evaluation_uri, night_uri=night_uri))
    storage.write(page_uri, page.encode())
    return page_uri
