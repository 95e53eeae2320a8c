"""Trainings of a few steps on drawn images: seconds, and the same on every machine."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrkd.config import FitConfig
from mrkd.model.feature_cache import TeacherFeatures
from mrkd.model.mrkd import MRKD
from mrkd.training import fit
from mrkd.training.fit import FitResult
from tests.support.models import small_model

FIT = FitConfig(
    max_steps=6, batch_size=4, learning_rate=5e-3, device="cpu", precision="float32", patience=200
)
NUM_TRAIN = 8


@functools.cache
def pixels() -> NDArray[np.uint8]:
    """Twelve noisy ramps, `[12, 64, 64, 3]`; the last four are held out."""
    ramp = np.linspace(0, 200, 64, dtype=np.float32)
    noise = np.random.default_rng(0).normal(0, 10, (12, 64, 64, 3))
    return (ramp[None, None, :, None] + noise).clip(0, 255).astype(np.uint8)


def features(model: MRKD, first: int, last: int) -> TeacherFeatures:
    """Of the drawn images from `first` to before `last`."""
    return TeacherFeatures(
        model.teacher, pixels()[first:last], budget_bytes=2**30, roi=model.pixel_roi
    )


def fit_small(
    model: MRKD | None = None,
    *,
    images: NDArray[np.uint8] | None = None,
    num_train: int = NUM_TRAIN,
    call: Mapping[str, Any] | None = None,
    **values: Any,
) -> tuple[MRKD, FitResult]:
    """A trained model and what was done.

    Args:
        model: to train; None: `small_model()`.
        images: instead of the drawn ones, of the same shape.
        num_train: images to train on, at most `NUM_TRAIN`.
        call: further arguments of `fit`.
        values: of `FitConfig`, over those of `FIT`.
    """
    model = model or small_model()
    config = FIT.with_values(values)
    images = pixels() if images is None else images
    train, held_out = (
        TeacherFeatures(model.teacher, part, budget_bytes=config.cache_bytes, roi=model.pixel_roi)
        for part in (images[:num_train], images[NUM_TRAIN:])
    )
    names = [str(n) for n in range(num_train)]
    fitted = fit.fit(model, train, held_out, config, sample_ids=names, **(call or {}))
    return model, fitted
