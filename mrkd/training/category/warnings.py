"""Warnings, metrics and history of a training that has ended."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import torch

from mrkd.errors import CategoryError
from mrkd.model.teacher import Teacher
from mrkd.training.category.calibrate import GoodScores
from mrkd.training.category.split_images import DecodedImages
from mrkd.training.fit import FitResult

_DARK = 16 / 255  # the brightest that 12 bits can be in a file of 16


def check_converged(fitted: FitResult) -> None:
    """Checks that the weights that a training kept are of an epoch with finite losses.

    Raises:
        CategoryError: they are the initial ones: not one epoch had a finite validation loss.
    """
    best = fitted.history[fitted.best_epoch]
    if not (math.isfinite(best["loss"]) and math.isfinite(best["validation_loss"])):
        raise CategoryError(
            f"the training diverged: after {fitted.steps} steps no epoch has a finite loss; lower "
            "train.learning_rate, or set train.precision to float32"
        )


def metrics(fitted: FitResult | None, device: torch.device) -> dict[str, Any]:
    """Figures of the training for `model.json`; no times: equal trainings give equal figures.

    Args:
        fitted: result of the student's training; None where the model has none.
        device: device that it was fitted on.
    """
    if fitted is None:
        return {"steps": 0, "epochs": 0, "device": str(device), "precision": "float32"}
    best = fitted.history[fitted.best_epoch]
    return {
        "steps": fitted.steps,
        "epochs": len(fitted.history),
        "best_epoch": fitted.best_epoch,
        "loss": best["loss"],
        "validation_loss": best["validation_loss"],
        "num_micro_batches": fitted.num_micro_batches,
        "device": str(fitted.placement.device),
        "precision": str(fitted.placement.precision).removeprefix("torch."),
    }


def history(fitted: FitResult | None) -> pa.Table:
    """One row an epoch; none without a student."""
    whole, real = ("epoch", "step"), ("loss", "validation_loss", "learning_rate")
    columns = [(name, pa.int64()) for name in whole] + [(name, pa.float64()) for name in real]
    return pa.Table.from_pylist(fitted.history if fitted else [], schema=pa.schema(columns))


def almost_black(images: DecodedImages) -> list[str]:
    """A warning if all images are as dark as 12 bits in files of 16; none otherwise."""
    found = [one.statistics for one in images.decoded if one.statistics is not None]
    if any(one.brightness > _DARK or one.contrast > _DARK / 2 for one in found):
        return []
    return [
        f"all {len(images)} good images are almost black: if their files hold 10 or 12 bits in 16, "
        "multiply the values by 64 or 16 and train again; otherwise light the scene"
    ]


def warnings(
    images: DecodedImages, scores: GoodScores, fitted: FitResult | None, teacher: Teacher
) -> list[str]:
    """Warnings about the model, one line each."""
    found = list(fitted.warnings) if fitted else []
    if scores.calibration.warning:
        found.append(scores.calibration.warning)
    num_different = len(set(images.digests))
    if num_different < len(images):
        found.append(
            f"only {num_different} of {len(images)} good images differ, the others are copies of "
            "these, byte by byte: take images of other parts instead"
        )
    if images.skipped:
        num_skipped, num_good = len(images.skipped), len(images.good)
        found.append(
            f"{num_skipped} of {num_skipped + num_good} good images cannot be decoded and were "
            f"left out: {images.skipped[0]}"
        )
    found += almost_black(images)
    if scores.num_suspects:
        found.append(
            f"{scores.num_suspects} good images lie far above all others: look at them, they may "
            "be defects"
        )
    if teacher.random:
        found.append("the teacher's weights are random: good for a test, for nothing else")
    return found
