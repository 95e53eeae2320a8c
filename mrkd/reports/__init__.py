"""Pages of stored runs: self-contained HTML that uses no network.

`<page>/load.py` reads a run's folder into stored rows and records, and the library's own
dataclasses; `<page>/page.py` renders these. `write_page` does both and stores the page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mrkd import storage
from mrkd.errors import StorageError
from mrkd.reports.ablation import load as ablation
from mrkd.reports.ablation.markdown import study_markdown
from mrkd.reports.ablation.page import study_page
from mrkd.reports.comparison import load as comparison
from mrkd.reports.comparison.page import comparison_page
from mrkd.reports.evaluation import load as evaluation
from mrkd.reports.evaluation.page import evaluation_page
from mrkd.reports.fleet import load as fleet
from mrkd.reports.fleet.page import fleet_page
from mrkd.reports.image_history.page import history_page
from mrkd.reports.night import load as night
from mrkd.reports.night.load import NightData, load_night_data
from mrkd.reports.night.page import night_page
from mrkd.reports.search import load as search
from mrkd.reports.search.page import search_page

__all__ = ["NightData", "history_page", "load_night_data", "write_page"]

_PAGES: dict[str, tuple[Callable[[str], Any], Callable[[Any], str]]] = {
    evaluation.RECORD: (evaluation.load_page_data, evaluation_page),
    fleet.RECORD: (fleet.load_fleet_data, fleet_page),
    comparison.RECORD: (comparison.load_comparison_data, comparison_page),
    night.RECORD: (load_night_data, night_page),
    search.RECORD: (search.load_search_data, search_page),
    ablation.RECORD: (ablation.load_study_data, study_page),
}
"""By the record that a run's folder holds: the reader of its data, and its page."""


def write_page(run_uri: str, data: NightData | None = None) -> str:
    """Writes `report.html` into the folder of a run, from what is stored there.

    An evaluation that trained gets `tables.md` too. A night gets its profile, where none of its
    newest revision is stored.

    Args:
        run_uri: `<workspace>/evaluations/<run>`, `<workspace>/fleets/<run>`,
            `<workspace>/nights/<run>`, `<workspace>/searches/<run>` or
            `<workspace>/comparisons/<A>--<B>`.
        data: result of `load_night_data` for this night; None: the folder is read.

    Returns:
        URI of the page.

    Raises:
        StorageError: the folder holds no record of any of these.
        MrkdError: the data cannot be loaded (see `load_page_data` and the other readers), or the
            page cannot be written.
    """
    name = next((name for name in _PAGES if storage.stat(storage.join(run_uri, name))), None)
    if name is None:
        raise StorageError(
            f"{run_uri} holds neither {' nor '.join(_PAGES)}: give the folder of an evaluation, a "
            "fleet, a search, a comparison or a closed night",
            "missing",
        )
    load, render = _PAGES[name]
    shown = data or load(run_uri)
    if isinstance(shown, ablation.StudyData):
        storage.write(storage.join(run_uri, "tables.md"), study_markdown(shown).encode())
    page_uri = storage.join(run_uri, "report.html")
    storage.write(page_uri, render(shown).encode())
    return page_uri
