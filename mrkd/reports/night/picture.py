"""A night's row as a picture, by the model that scored it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mrkd.errors import StorageError
from mrkd.model.artefact import Calibration, ModelCard
from mrkd.reports.kit import read as stored
from mrkd.reports.kit.values import Picture


def drawn(
    row: Mapping[str, Any],
    card: ModelCard | None,
    calibration: Calibration | None,
    data: Mapping[str, bytes],
) -> tuple[Picture, float]:
    """The picture of a scored row, and where its heat is full.

    Args:
        row: of `schema.SCORES`, with its map.
        card: of the model; None where it is gone: the map is laid over the whole picture.
        calibration: None where it is gone: heat is full at the map's own peak.
        data: images by URI; of one that is not there the picture is left out.
    """

    def read(uri: str) -> bytes:
        if uri not in data:
            raise StorageError(f"{uri} is not what was scored any more", "changed")
        return data[uri]

    model = card.model if card else None
    # A map of tiles lies over the whole picture, as one of a stretched picture does.
    resize = "stretch" if model is None or model.tiles else model.resize
    image_size = model.image_size if model else row["map_height"] or 1
    picture = stored.picture(row, image_size=image_size, resize=resize, read=read)
    return picture, calibration.pixel_threshold if calibration else row["map_max"] or 0.0
