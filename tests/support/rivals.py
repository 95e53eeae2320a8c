"""Models that meet at the gate: untrained, with thresholds and shares as a test wants them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from mrkd import datasets, models, registry
from mrkd.checkpoint import Calibration, ModelCard, TeacherCard
from mrkd.config import FitConfig, RoiConfig
from mrkd.datasets import Sample
from mrkd.model import MRKD
from mrkd.models import LoadedModel
from mrkd.registry import Promotion
from mrkd.roi import Roi
from tests.support.models import FIT, small_model

BETTER, WORSE = 5, 4
"""Seeds whose untrained models tell the parts' painted defects apart so well, and so badly."""

NEVER = 1e9
"""A threshold that no score exceeds; every score exceeds its negative."""


def rival(
    model: MRKD | None = None, *, train: FitConfig = FIT, threshold: float = NEVER
) -> LoadedModel:
    """A model that no workspace holds."""
    model = model or small_model(BETTER)
    teacher = TeacherCard("efficientnet_lite0", "0", random=True)
    card = ModelCard("plate", "v", model.config, train, teacher, {}, {}, {}, {}, {})
    return LoadedModel(model, card, _calibration(threshold))


def store(workspace: str, loaded: LoadedModel) -> LoadedModel:
    """The model as the next version of its category."""
    draft = models.draft(
        loaded.model,
        loaded.calibration,
        category="plate",
        version=f"v{len(registry.versions(workspace, 'plate'))}",
        train=loaded.card.train,
        data={},
        metrics={},
        history=pa.table({"epoch": [0]}),
        training_scores=pa.table({"image_uri": ["a"]}),
    )
    models.save(workspace, draft)
    return LoadedModel(loaded.model, draft.card, loaded.calibration)


def crown(workspace: str, loaded: LoadedModel) -> Promotion:
    """The model stored and promoted."""
    version = store(workspace, loaded).card.version
    return registry.promote(workspace, "plate", version, by="test", why="test")


def keyed(samples: Iterable[Sample]) -> list[tuple[Sample, str]]:
    """Samples with their side keys."""
    return [(one, datasets.side_key(one, datasets.read_image(one))) for one in samples]


def held_out(good: list[tuple[Sample, str]], train: FitConfig = FIT) -> list[tuple[Sample, str]]:
    """Those that a training holds out for its calibration."""
    shares: dict[str, Any] = {
        name: getattr(train, name) for name in ("validation_share", "calibration_share")
    }
    return [one for one in good if datasets.side(one[1], **shares) == "calibration"]


def region(side: int = 64) -> Roi:
    """The middle quarter of square pictures."""
    mask = np.zeros((side, side), bool)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = True
    return Roi(mask, RoiConfig(mask="drawn.png"))


def _calibration(threshold: float) -> Calibration:
    held_out = (0.0,) * 4
    return Calibration(1, threshold, threshold, 0.01, 0.2, held_out, held_out, {}, "test", "test")
