"""The page of one image: its verdict in each night, from rows of `image_history.history`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from mrkd import storage
from mrkd.nights.archived_images import read_images
from mrkd.nights.image_history import Sighting
from mrkd.reports.kit import page
from mrkd.reports.night.picture import ModelFiles, drawn, read_model

NUM_SHOWN = 60
"""Newest rows that are shown as images, each some 12 KB; the table has all rows."""


def history_page(workspace: str, image_uri: str, found: Sequence[Sighting]) -> str:
    """The page of one image, see `page.render`.

    Args:
        workspace: URI of the nights' workspace.
        image_uri: URI of the image.
        found: its rows, the oldest first.
    """
    models = {
        (one.category, one.row["model_version"], one.row["calibration"])
        for one in found
        if one.row["model_version"] is not None
    }
    known = {model: read_model(workspace, *model) for model in sorted(models)}
    return page.render(
        "history.html.j2",
        teachers=sorted({one.card.teacher.name for one in known.values() if one.card}),
        config={"workspace": workspace, "image_uri": image_uri},
        name=PurePosixPath(image_uri).name,
        uri=image_uri,
        lines=[one.line() for one in reversed(found)],
        num_nights=len({one.run for one in found}),
        cards=[_card(workspace, one, known) for one in reversed(found[-NUM_SHOWN:])],
        gaps=[one.gap for one in known.values() if one.gap],
    )


def _card(workspace: str, one: Sighting, known: dict[Any, ModelFiles]) -> dict[str, Any]:
    """A row as a card: the image, if it is still what was scored, under the row's own map."""
    row, line = one.row, one.line()
    model = known.get((one.category, row["model_version"], row["calibration"]), ModelFiles())
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
    image = drawn({**row, **size}, model, data)
    return page.card(image, facts, usual=page.usual([image]), verdict=one.called)
