"""The page of one image: what each night made of it, from the rows that `audit.history` found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from mrkd import storage
from mrkd.errors import ArtefactError, StorageError
from mrkd.model import artefact
from mrkd.model.artefact import Calibration, ModelCard
from mrkd.nights.archived_images import read_images
from mrkd.nights.image_history import Sighting
from mrkd.reports.kit import page
from mrkd.reports.night.picture import drawn

NUM_SHOWN = 60
"""The newest rows that the page has a picture of, each some 12 KB; its table has all."""


def history_page(workspace: str, image_uri: str, found: Sequence[Sighting]) -> str:
    """The whole page as HTML that stands alone: it reads no other file and asks no network.

    Args:
        workspace: of the nights.
        image_uri: of the image.
        found: its rows, the oldest first.
    """
    models = {
        (one.category, one.row["model_version"], one.row["calibration"])
        for one in found
        if one.row["model_version"] is not None
    }
    gaps: list[str] = []
    known = {model: _read(workspace, *model, gaps) for model in sorted(models)}
    return page.render(
        "history.html.j2",
        teachers=sorted({card.teacher.name for card, _ in known.values() if card}),
        config={"workspace": workspace, "image_uri": image_uri},
        name=PurePosixPath(image_uri).name,
        uri=image_uri,
        lines=[one.line() for one in reversed(found)],
        num_nights=len({one.run for one in found}),
        cards=[_card(workspace, one, known) for one in reversed(found[-NUM_SHOWN:])],
        gaps=gaps,
    )


_Model = tuple[ModelCard | None, Calibration | None]


def _read(workspace: str, category: str, version: str, calibration: int, gaps: list[str]) -> _Model:
    """Card and calibration, as far as they can still be read."""
    try:
        card = artefact.read_card(workspace, category, version)
        return card, artefact.read_calibration(workspace, category, version, calibration)
    except (ArtefactError, StorageError) as error:
        gaps.append(str(error))
        return None, None


def _card(workspace: str, one: Sighting, known: dict[Any, _Model]) -> dict[str, Any]:
    """A row as a card: the picture if it still is what was scored, under the row's own map."""
    row, line = one.row, one.line()
    model = known.get((one.category, row["model_version"], row["calibration"]), (None, None))
    facts = {"night": line["night"], "closed": line["closed_at"]}
    if row["error_kind"] is not None:
        facts |= {"error": row["error_kind"]}
    else:
        facts |= {
            "score": page.score(row["image_score"]),
            "threshold": page.score(row["threshold"]),
            "p-value": page.figure(row["p_value"]),
        }
    night_uri = storage.join(workspace, "nights", one.run)
    data = dict(read_images(night_uri, [row], one.tars)) if row["image_etag"] else {}
    size = {name: row[name] or 1 for name in ("image_height", "image_width")}
    picture, full = drawn({**row, **size}, *model, data)
    card = page.card(picture, facts, usual=page.usual([picture]), pixel_threshold=full)
    return card | {"verdict": one.called}
