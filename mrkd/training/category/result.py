"""Result of one category's training, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

_ON_DEVICE = ("features", "fit", "calibrate", "measure", "gate")
"""Stages that compute on the device."""


@dataclass(frozen=True)
class CategoryResult:
    """Result of one category's training that did not fail.

    Args:
        status: `up_to_date`: the same images, config and teacher made that version before.
        num_images: good images on each side of its student's training: train, validation,
            calibration; without a student all are calibration's.
        image_size: side of the model's input in pixels.
        resize: how an image lies on its map.
        model_bytes: size of the version's files, without the teacher.
        threshold: threshold of its first calibration.
        supported_false_call_rate: the share that its number of groups vouches for.
        steps: optimiser steps of its training.
        gate: the gate's decision: `state` (first, passed, held), `reason` and figures.
        marks: a search's measurements, instead of a gate's.
        images_per_s: training images through the student; None where nothing was trained.
        skipped: images that cannot be decoded, each with its reason.
        warnings: warnings, one line each.
        no_student: why the model has none though its config has one; else empty.
        seconds: seconds of each stage.
        started_at: when its worker began, UTC, ISO 8601.
    """

    category: str
    status: Literal["trained", "up_to_date"]
    version: str
    num_images: dict[str, int]
    image_size: int
    resize: str
    model_bytes: int
    threshold: float
    supported_false_call_rate: float
    steps: int
    gate: dict[str, Any] = field(default_factory=dict)
    marks: Mapping[str, Any] = field(default_factory=dict)
    images_per_s: float | None = None
    skipped: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    no_student: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    started_at: str = ""
    finished_at: str = ""

    def gpu_seconds(self) -> dict[str, float]:
        """Seconds for which its worker held a GPU, and of these the ones that needed it."""
        begun, ended = (datetime.fromisoformat(at) for at in (self.started_at, self.finished_at))
        busy = sum(self.seconds.get(stage, 0.0) for stage in _ON_DEVICE)
        return {"held": round((ended - begun).total_seconds(), 3), "busy": round(busy, 3)}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
