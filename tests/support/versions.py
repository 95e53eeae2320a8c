"""Versions in a workspace, whole ones with real files, without a training."""

import numpy as np
import pyarrow as pa

from mrkd.data.images import Statistics
from mrkd.model.artefact import ModelCard, save_load
from mrkd.model.calibration import calibrate
from mrkd.model.mrkd import MRKD
from tests.support.models import FIT, small_model

HELD_OUT = np.arange(19) / 16
"""Scores of the held-out images: 0, 0.0625, ..., 1.125."""


def store_version(
    workspace: str,
    version: str,
    category: str = "plate",
    *,
    num_train: int = 32,
    rate: float = 0.05,
    model: MRKD | None = None,
    **train: object,
) -> ModelCard:
    """A version of a small model, or of this, with a first calibration; `train` is not as `FIT`."""
    calibration = calibrate(
        HELD_OUT, HELD_OUT * 2, [Statistics(0.5, 0.1, 1.0)] * len(HELD_OUT), false_call_rate=rate
    )
    draft = save_load.draft(
        small_model() if model is None else model,
        calibration,
        category=category,
        version=version,
        train=FIT.with_values(train),
        data={"fingerprint": f"of {num_train}", "num_images": {"train": num_train}, "skipped": []},
        metrics={"validation_loss": 0.125, "steps": 4},
        history=pa.table({"epoch": [0], "loss": [0.5]}),
        training_scores=pa.table({"image_uri": ["a"], "image_score": [0.5]}),
    )
    save_load.save(workspace, draft)
    return draft.card


def gate(value: float, state: str = "passed") -> dict[str, object]:
    """What a gate says of a version whose image AUROC is `value`."""
    auroc = {"value": value, "low": value - 0.05, "high": min(1.0, value + 0.05)}
    return {"state": state, "by": "labels", "image_auroc": auroc, "reason": f"it has {value}"}
