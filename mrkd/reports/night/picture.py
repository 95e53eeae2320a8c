"""Scored rows of a night as images, by the model that scored them."""

from __future__ import annotations

from collections.abc import Mapping

from mrkd.errors import StorageError
from mrkd.model.artefact import Calibration, ModelCard
from mrkd.reports.kit import read as stored
from mrkd.reports.kit.values import Row, ScoredImage


def drawn(
    row: Row,
    card: ModelCard | None,
    calibration: Calibration | None,
    data: Mapping[str, bytes],
) -> ScoredImage:
    """The image of a scored row.

    Args:
        row: columns of `schema.SCORES`, with the map.
        card: card of the model; None where it is gone: the map covers the whole image.
        calibration: its calibration; None where it is gone: heat is full at the map's peak.
        data: bytes of the images by URI; an image that is not there is shown without pixels.
    """

    def read(uri: str) -> bytes:
        if uri not in data:
            raise StorageError(f"{uri} is not what was scored any more", "changed")
        return data[uri]

    model = card.model if card else None
    return stored.scored_image(
        row,
        image_size=model.image_size if model else row["map_height"] or 1,
        # A map of tiles covers the whole image, as that of a stretched image does.
        resize="stretch" if model is None or model.tiles else model.resize,
        pixel_threshold=calibration.pixel_threshold if calibration else row["map_max"] or 0.0,
        read=read,
    )
