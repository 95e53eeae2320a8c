"""Models that meet at the gate: untrained, with thresholds and shares as a test wants them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from mrkd.config import RoiConfig
from mrkd.data import datasets
from mrkd.data.datasets import Sample
from mrkd.data.roi import Roi
from mrkd.model.artefact import Calibration, ModelCard, TeacherCard, save_load
from mrkd.model.artefact.save_load import LoadedModel
from mrkd.model.ensemble import Model
from mrkd.model.registry import promotions
from mrkd.model.registry.promotions import Promotion
from mrkd.training.gate.compare_models import Rival
from tests.support.models import FIT, small_model

BETTER, WORSE = 5, 4
"""Seeds whose untrained models tell the parts' painted defects apart so well, and so badly."""

NEVER = 1e9
"""A threshold that no score exceeds; every score exceeds its negative."""


def rival(
    model: Model | None = None,
    *,
    threshold: float = NEVER,
    supported: float = 0.2,
) -> LoadedModel:
    """A model that no workspace holds."""
    model = model or small_model(BETTER)
    teacher = TeacherCard("efficientnet_lite0", "0", random=True)
    card = ModelCard("plate", "v", model.config, FIT, teacher, {}, {}, {}, {}, {})
    held_out = (0.0,) * 4
    calibration = Calibration(
        1, threshold, threshold, 0.01, supported, held_out, held_out, {}, "test", "test", 4
    )
    return LoadedModel(model, card, calibration)


def shown(loaded: LoadedModel | None = None, sides: Mapping[str, str] | None = None) -> Rival:
    """A model at the gate, and what it was made of; nothing, if nobody says."""
    return Rival(loaded or rival(), sides or {})


def store(
    workspace: str, loaded: LoadedModel, sides: Mapping[str, str] | None = None
) -> LoadedModel:
    """The model as the next version of its category."""
    known = sides or {}
    draft = save_load.draft(
        loaded.model,
        loaded.calibration,
        category="plate",
        version=f"v{len(promotions.versions(workspace, 'plate'))}",
        train=loaded.card.train,
        data={},
        metrics={},
        history=pa.table({"epoch": [0]}),
        training_scores=pa.table(
            {
                "sha256": pa.array(list(known), pa.string()),
                "side": pa.array(list(known.values()), pa.string()),
            }
        ),
    )
    save_load.save(workspace, draft)
    return LoadedModel(loaded.model, draft.card, loaded.calibration)


def crown(workspace: str, loaded: LoadedModel, sides: Mapping[str, str] | None = None) -> Promotion:
    """The model stored and promoted."""
    version = store(workspace, loaded, sides).card.version
    return promotions.promote(workspace, "plate", version, by="test", why="test")


def digested(samples: Iterable[Sample]) -> list[tuple[Sample, str]]:
    """Samples with the sha256 of their files."""
    return [(one, hashlib.sha256(datasets.read_image(one)).hexdigest()) for one in samples]


def sides_of(good: Sequence[tuple[Sample, str]], every: int = 4) -> dict[str, str]:
    """Sides of a training that held out one image of so many."""
    return {digest: "train" if n % every else "calibration" for n, (_, digest) in enumerate(good)}


def held_out(good: Sequence[tuple[Sample, str]], every: int = 4) -> list[tuple[Sample, str]]:
    """Those that `sides_of` holds out."""
    sides = sides_of(good, every)
    return [one for one in good if sides[one[1]] == "calibration"]


def region(side: int = 64) -> Roi:
    """The middle quarter of square pictures."""
    mask = np.zeros((side, side), bool)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = True
    return Roi(mask, RoiConfig(mask="drawn.png"))
