"""What is said of a training that has ended."""

from __future__ import annotations

import math
from typing import Any

from mrkd.backbones import Teacher
from mrkd.category.images import DecodedImages
from mrkd.category.scores import GoodScores
from mrkd.errors import CategoryError
from mrkd.training import FitResult


def check_converged(fitted: FitResult) -> None:
    """Whether the weights that a training kept are of an epoch whose losses were numbers.

    Raises:
        CategoryError: they are the initial ones: not one epoch had a finite validation loss.
    """
    best = fitted.history[fitted.best_epoch]
    if not (math.isfinite(best["loss"]) and math.isfinite(best["validation_loss"])):
        raise CategoryError(
            f"the training diverged: after {fitted.steps} steps no epoch has a finite loss; lower "
            "train.learning_rate, or set train.precision to float32"
        )


def metrics(fitted: FitResult) -> dict[str, Any]:
    """What `model.json` says of the training; no times: equal trainings give equal figures."""
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


def warnings(
    images: DecodedImages, scores: GoodScores, fitted: FitResult, teacher: Teacher
) -> list[str]:
    """What a person should know of it, one line each."""
    found = list(fitted.warnings)
    if scores.calibration.warning:
        found.append(scores.calibration.warning)
    if images.skipped:
        num_skipped, num_good = len(images.skipped), len(images.good)
        found.append(
            f"{num_skipped} of {num_skipped + num_good} good images cannot be decoded and were "
            f"left out: {images.skipped[0]}"
        )
    if scores.num_suspects:
        found.append(
            f"{scores.num_suspects} images that were trained on lie above the threshold: look at "
            "them, they may be defects"
        )
    if teacher.random:
        found.append("the teacher's weights are random: good for a test, for nothing else")
    return found
