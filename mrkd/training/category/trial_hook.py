"""Hook of a search into a training: measures the model at some epochs, and at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from mrkd.data.datasets import Sample
from mrkd.model.detector import Detector
from mrkd.model.ensemble import Ensemble, Model
from mrkd.model.feature_cache import TeacherFeatures
from mrkd.training.fit import Report, calibrate_ensemble, calibrate_levels

Marks = Callable[[Detector, Sequence[Sample], float | None], Mapping[str, Any]]


@dataclass(frozen=True)
class TrialHook:
    """Measurements that a search takes in a training.

    Args:
        marks: measures a model; called with it, in eval mode, with the good images of the
            validation side, and with its threshold, which is known at the end alone.
        is_due: whether to measure after so many epochs.
        features_folder: folder where trainings of one machine share their teachers' features;
            empty: they do not.
        is_asking: whether it measures at all: a measured model must not know the images.
        forgets: whether the model is dropped once it has been measured: no version is saved, so
            that two workers of one config never conflict, and nothing is left to be removed.
    """

    marks: Marks
    is_due: Callable[[int], bool]
    features_folder: str = ""
    is_asking: bool = True
    forgets: bool = False

    @classmethod
    def silent(cls, features_folder: str) -> Self:
        """A hook that measures nothing: the caller measures the version."""
        return cls(lambda *_: {}, lambda _: False, features_folder, is_asking=False)

    def reporting(
        self, report: Report, model: Model, held_out: TeacherFeatures, samples: Sequence[Sample]
    ) -> Report:
        """`report` of rows that hold the marks too, where they are due."""

        def measured(row: Mapping[str, Any]) -> None:
            if self.is_due(int(row["epoch"]) + 1):
                # Map and score may need what only the end of a training sets.
                calibrate_by(model, held_out)
                row = {**row, **self.marks(model, samples, None)}
            report(row)

        return measured


def calibrate_by(model: Model, held_out: TeacherFeatures) -> None:
    """Sets the scales of a model under training by images that it does not know."""
    if isinstance(model, Ensemble):
        calibrate_ensemble(model.eval(), held_out)
    else:
        calibrate_levels(model, held_out)
