"""Scored rows of a night as images, by the model that scored them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mrkd.errors import ArtefactError, ConfigError, StorageError
from mrkd.model import artefact
from mrkd.model.artefact import Calibration, ModelCard
from mrkd.reports.kit import read as stored
from mrkd.reports.kit.values import Row, ScoredImage


class ModelFiles(NamedTuple):
    """Card and calibration of a model; None with a `gap`, the reason in one line."""

    card: ModelCard | None = None
    calibration: Calibration | None = None
    gap: str = ""


def read_model(workspace: str, category: str, version: str, calibration: int) -> ModelFiles:
    """Card and calibration, as far as they can still be read."""
    try:
        card = artefact.read_card(workspace, category, version)
        found = artefact.read_calibration(workspace, category, version, calibration)
    except (StorageError, ArtefactError, ConfigError) as error:
        return ModelFiles(gap=str(error))
    return ModelFiles(card, found)


def drawn(row: Row, files: ModelFiles, data: Mapping[str, bytes]) -> ScoredImage:
    """The image of a scored row.

    Args:
        row: columns of `schema.SCORES`, with the map.
        files: files of the model; where they are gone, the map covers the whole image, and heat is
            full at its peak.
        data: bytes of the images by URI; an image that is not there is shown without pixels.
    """

    def read(uri: str) -> bytes:
        if uri not in data:
            raise StorageError(f"{uri} is not what was scored any more", "changed")
        return data[uri]

    model, calibration = files.card.model if files.card else None, files.calibration
    return stored.scored_image(
        row,
        image_size=model.image_size if model else row["map_height"] or 1,
        # A map of tiles covers the whole image, as that of a stretched image does.
        resize="stretch" if model is None or model.tiles else model.resize,
        pixel_threshold=calibration.pixel_threshold if calibration else row["map_max"] or 0.0,
        read=read,
    )
