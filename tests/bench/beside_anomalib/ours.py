"""mrkd's side: the arms, one epoch of a training for its speed, and whole trainings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mrkd.config import TrainConfig
from mrkd.config.toml import put_values
from mrkd.evaluation.ablation.variants import MODEL, PLAIN_RD, RD
from mrkd.model.feature_cache import TeacherFeatures
from mrkd.model.mrkd import MRKD, build
from mrkd.model.teacher import Teacher
from mrkd.model.teacher.teacher import load_teacher
from mrkd.training import fit as training
from tests.bench.beside_anomalib.pictures import Category

BATCH = 16
MAP_SIZE = 64
THEIRS = "anomalib RD"
OURS: dict[str, Mapping[str, Any]] = {RD: PLAIN_RD, MODEL: {}}
"""Values of each arm over the preset `paper`."""
RESNETS = ("resnet18", "resnet50", "wide_resnet50_2")

Run = Callable[[], float]
"""Images a second of one round."""
Figures = dict[str, Any]


def config_of(backbone: str, values: Mapping[str, Any]) -> TrainConfig:
    """The paper's config under some values, named by dotted paths."""
    raw: dict[str, Any] = {"workspace": "none", "run": "none", "data": {"root": "none"}}
    fixed = {"model.preset": "paper", "model.backbone": backbone, "train.precision": "float32"}
    put_values(raw, {**fixed, "train.batch_size": BATCH, **values})
    return TrainConfig.from_dict(raw)


def teacher_of(backbone: str, weights: str) -> Teacher:
    """A ResNet with the weights that were asked for; others come with their package."""
    return load_teacher(backbone, weights=weights if backbone in RESNETS else "auto")


def model_of(teacher: Teacher, arm: str) -> MRKD:
    """An arm before its training."""
    return build(config_of(teacher.name, OURS[arm]).model, teacher, seed=0)


def fitting(
    model: MRKD, pixels: np.ndarray, *, cached: bool
) -> Callable[[str], training.FitResult]:
    """A call trains for one epoch of these pixels, in a precision of `train.precision`."""
    values = {"train.max_epochs": 1, "train.augment": "none" if cached else "flips"}
    train, validation = (
        TeacherFeatures(model.teacher, part, budget_bytes=2**33) for part in (pixels, pixels[:1])
    )
    names = [str(n) for n in range(len(pixels))]

    def fit(precision: str) -> training.FitResult:
        config = config_of(model.teacher.name, {**values, "train.precision": precision}).train
        return training.fit(model, train, validation, config, sample_ids=names)

    return fit


@dataclass(frozen=True)
class Trained:
    """An arm after its training, and the seconds that took, with the teacher's pass."""

    model: MRKD
    seconds: float


class Trainings:
    """Every arm trained on a category, once: with equal steps, in bounded time.

    Args:
        teacher: of all arms.
        category: to train on.
        steps: that are asked for.
        seconds: of one training, about; fewer steps where they do not fit.
    """

    def __init__(self, teacher: Teacher, category: Category, *, steps: int, seconds: float) -> None:
        self.teacher, self.category, self.seconds = teacher, category, seconds
        self._asked = steps
        self._found: dict[str, Trained] = {}

    @cached_property
    def steps(self) -> int:
        """By the time of two steps of the slower arm on images that its teacher has not seen."""
        part = self.category.train[: 2 * BATCH], self.category.validation[:1]
        each = self._fit(MODEL, 2, *part).seconds / 2
        return max(2, min(self._asked, int(self.seconds / each)))

    @property
    def pixels(self) -> np.ndarray:
        """The good images that any step may see."""
        return self.category.train[: self.steps * BATCH]

    def __getitem__(self, arm: str) -> Trained:
        if arm not in self._found:
            self._found[arm] = self._fit(arm, self.steps, self.pixels, self.category.validation)
        return self._found[arm]

    def _fit(self, arm: str, steps: int, *parts: np.ndarray) -> Trained:
        began = time.perf_counter()
        config = config_of(self.teacher.name, {"train.max_steps": steps, **OURS[arm]})
        model = build(config.model, self.teacher, seed=0)
        train, validation = (
            TeacherFeatures(self.teacher, pixels, budget_bytes=config.train.cache_bytes)
            for pixels in parts
        )
        ids = self.category.ids[: len(train)]
        training.fit(model, train, validation, config.train, sample_ids=ids)
        return Trained(model, time.perf_counter() - began)
