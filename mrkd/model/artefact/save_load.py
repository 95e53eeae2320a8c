"""A stored model in memory: its whole folder written, and what scoring needs read and verified."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import safetensors.torch
import torch
from torch import Tensor

from mrkd import __version__, storage
from mrkd.config import FitConfig
from mrkd.errors import ArtefactError, ConfigError, StandsError
from mrkd.model import artefact
from mrkd.model.artefact import (
    CARD,
    WEIGHTS,
    Calibration,
    ModelCard,
    TeacherCard,
    checksummed_files,
)
from mrkd.model.ensemble import Model, model_of
from mrkd.model.mrkd import MODEL_VERSION
from mrkd.model.teacher import Teacher, teacher_from_safetensors
from mrkd.storage import schema

MAX_TEACHER_BYTES = 2**30
Teachers = MutableMapping[str, Teacher]
"""Teachers in memory by digest, so that models share one."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode on the CPU, with what its rows need."""

    model: Model
    card: ModelCard
    calibration: Calibration


@dataclass(frozen=True)
class Draft:
    """A model's folder before it is written.

    Args:
        card: its `model.json`.
        files: bytes of the other files, by name.
        teacher: its teacher, which is stored once for all models.
    """

    card: ModelCard
    files: Mapping[str, bytes]
    teacher: Teacher


def draft(
    model: Model,
    calibration: Calibration,
    *,
    category: str,
    version: str,
    train: FitConfig,
    data: Mapping[str, Any],
    metrics: Mapping[str, Any],
    history: pa.Table,
    training_scores: pa.Table,
) -> Draft:
    """The files that `save` writes of a model."""
    files = {
        WEIGHTS: safetensors.torch.save(
            {name: _stored(tensor) for name, tensor in model.trained_state().items()}
        ),
        f"calibrations/{calibration.number}.json": checksummed_files.to_json(calibration.to_json()),
        "history.parquet": schema.to_parquet(history),
        "training_scores.parquet": schema.to_parquet(training_scores),
    }
    card = ModelCard(
        category=category,
        version=version,
        model=model.config,
        train=train,
        teacher=_teacher_card(model.teacher),
        preprocessing=_preprocessing(model),
        data=data,
        metrics=metrics,
        files={
            name: {"sha256": checksummed_files.sha256(value), "num_bytes": len(value)}
            for name, value in files.items()
        },
        code={"mrkd": __version__, "model_version": MODEL_VERSION},
        roi=model.roi.to_json() if model.roi else None,
    )
    return Draft(card, files, model.teacher)


def save(workspace: str, draft: Draft) -> None:
    """Writes a model's folder, its teacher if the workspace lacks it, and `model.json` last.

    An unfinished folder of an earlier try is written over.

    Raises:
        StandsError: that version is complete, perhaps by another run meanwhile.
        StorageError: a file cannot be written.
    """
    card = draft.card
    folder = artefact.folder_of(workspace, card.category, card.version)
    card_uri = storage.join(folder, CARD)
    if storage.stat(card_uri):
        raise StandsError(f"{card_uri} exists already: versions are never changed")
    store_teacher(workspace, draft.teacher)
    for name, value in draft.files.items():
        storage.write(storage.join(folder, name), value)
    if not storage.write(card_uri, checksummed_files.to_json(card.to_json()), if_absent=True):
        raise StandsError(f"{card_uri} was written by another run meanwhile: start again")


def load(
    workspace: str,
    category: str,
    version: str,
    *,
    calibration: int = 1,
    teachers: Teachers | None = None,
) -> LoadedModel:
    """A stored model: its card, weights, calibration and teacher, each verified.

    Args:
        workspace: URI.
        category: category of the model.
        version: version of the model.
        calibration: number of the calibration to decide by.
        teachers: teachers in memory; a missing one is added. None: loads the model's own.

    Raises:
        ArtefactError: one of them is missing, of another size or digest, or does not fit the code.
        StorageError: the workspace cannot be read.
    """
    folder = artefact.folder_of(workspace, category, version)
    card = artefact.read_card(workspace, category, version)
    weights = artefact.read_file(workspace, card, WEIGHTS)
    teacher = _load_teacher(workspace, card.teacher, {} if teachers is None else teachers)
    try:
        model = model_of(card.model, teacher, card.region)
        model.load_trained_state(safetensors.torch.load(weights))
    except (ArtefactError, ConfigError, RuntimeError, safetensors.SafetensorError) as error:
        raise ArtefactError(
            f"{storage.join(folder, WEIGHTS)} does not fit its config in this version of mrkd "
            f"({__version__}, written by {card.code['mrkd']}): train again; {error}"
        ) from error
    if card.preprocessing != _preprocessing(model):
        raise ArtefactError(
            f"{storage.join(folder, CARD)} asks for the preprocessing {card.preprocessing}, this "
            f"version of mrkd ({__version__}) has {_preprocessing(model)}: train again"
        )
    # As `training.fit` leaves it: another layout in memory rounds the scores otherwise.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in torch's
    found = artefact.read_calibration(workspace, category, version, calibration)
    return LoadedModel(model.eval(), card, found)


def store_teacher(workspace: str, teacher: Teacher) -> None:
    """Puts the teacher's file into the workspace if it is not there."""
    uri = _teacher_uri(workspace, _teacher_card(teacher))
    if storage.stat(uri) is None:
        # Refused where another category's run was faster: the bytes are the same.
        storage.write(uri, teacher.to_safetensors(), if_absent=True)


def _stored(tensor: Tensor) -> Tensor:
    """A tensor as it is stored: float16 where it holds such numbers, as trained weights do."""
    tensor = tensor.detach().cpu().contiguous()
    half = tensor.half() if tensor.dtype is torch.float32 and tensor.ndim > 1 else tensor
    return half if torch.equal(half.float(), tensor.float()) else tensor


def _teacher_card(teacher: Teacher) -> TeacherCard:
    return TeacherCard(teacher.name, teacher.digest, teacher.random)


def _preprocessing(model: Model) -> dict[str, Any]:
    normalisation, config = model.teacher.normalisation, model.config
    tiles = {"tiles": config.tiles, "overlap": config.overlap} if config.tiles else {}
    return tiles | {
        "size": config.image_size,
        "resize": config.resize,
        "mean": list(normalisation.mean),
        "std": list(normalisation.std),
    }


def _teacher_uri(workspace: str, teacher: TeacherCard) -> str:
    return storage.join(
        workspace, "teachers", f"{teacher.backbone}-{teacher.digest[:12]}.safetensors"
    )


def _load_teacher(workspace: str, card: TeacherCard, teachers: Teachers) -> Teacher:
    teacher = teachers.get(card.digest)
    if teacher is None:
        uri = _teacher_uri(workspace, card)
        data = checksummed_files.read(uri, digest=card.digest, max_bytes=MAX_TEACHER_BYTES)
        teacher = teacher_from_safetensors(data, where=uri)
        teachers[card.digest] = teacher
    return teacher
