"""The JSON of a model's folder, read and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from mrkd import __version__, storage
from mrkd.errors import ArtefactError, ConfigError
from mrkd.model.artefact import checksummed_files
from mrkd.model.artefact.model_card import CARD, Calibration, ModelCard
from mrkd.storage import schema

T = TypeVar("T")


def folder_of(workspace: str, category: str, version: str) -> str:
    """URI of a model version's folder."""
    return storage.join(workspace, "models", category, version)


def read_card(workspace: str, category: str, version: str) -> ModelCard:
    """`model.json` alone: size and preprocessing without loading a model.

    Raises:
        ArtefactError: it is missing (the version is unfinished), damaged, or of a newer mrkd.
    """
    uri = storage.join(folder_of(workspace, category, version), CARD)
    return _parsed(uri, ModelCard.from_json)


def read_calibration(workspace: str, category: str, version: str, number: int) -> Calibration:
    """One calibration of a model.

    Raises:
        ArtefactError: it is missing, damaged, or of a newer mrkd.
    """
    folder = folder_of(workspace, category, version)
    uri = storage.join(folder, "calibrations", f"{number}.json")
    return _parsed(uri, Calibration.from_json)


def read_file(workspace: str, card: ModelCard, name: str) -> bytes:
    """The bytes of a file of a model's folder.

    Raises:
        ArtefactError: it is missing, or of another size or digest than its card names.
    """
    uri = storage.join(folder_of(workspace, card.category, card.version), name)
    file = card.files[name]
    return checksummed_files.read(uri, digest=file["sha256"], max_bytes=file["num_bytes"])


def read_sides(workspace: str, category: str, version: str) -> dict[str, str]:
    """The side of the training that each good image was on, by the sha256 of its file.

    Raises:
        ArtefactError: the record is missing or damaged.
        StorageError: it cannot be read.
    """
    name = "training_scores.parquet"
    data = read_file(workspace, read_card(workspace, category, version), name)
    table = schema.from_parquet(data, name=name, columns=["sha256", "side"])
    return dict(zip(table["sha256"].to_pylist(), table["side"].to_pylist(), strict=True))


def calibration_numbers(workspace: str, category: str, version: str) -> list[int]:
    """Numbers of a model's calibrations, rising."""
    folder = folder_of(workspace, category, version)
    return storage.list_numbers(storage.join(folder, "calibrations"))


def add_calibration(
    workspace: str, category: str, version: str, calibration: Calibration
) -> Calibration:
    """Stores a further calibration of a model; returns it with its number, the next free one."""
    folder = storage.join(folder_of(workspace, category, version), "calibrations")
    number = max(calibration_numbers(workspace, category, version))
    while True:
        number += 1
        new = replace(calibration, number=number)
        uri = storage.join(folder, f"{number}.json")
        if storage.write(uri, checksummed_files.to_json(new.to_json()), if_absent=True):
            return new


def _parsed(uri: str, from_json: Callable[[dict[str, Any]], T]) -> T:
    try:
        return from_json(checksummed_files.read_json(uri))
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise ArtefactError(
            f"{uri} does not fit this version of mrkd ({__version__}): use the version that wrote "
            f"it, or train again; {error}"
        ) from error
