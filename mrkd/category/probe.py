"""How a search looks into a training: it measures the model at some epochs, and at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from mrkd.datasets import Sample
from mrkd.feature_cache import TeacherFeatures
from mrkd.model import MRKD
from mrkd.training import Report, calibrate_levels

Marks = Callable[[MRKD, Sequence[Sample], float | None], Mapping[str, Any]]


@dataclass(frozen=True)
class Probe:
    """What a search has of a training.

    Args:
        marks: what is said of a model; called with it, in eval mode, with the good images of the
            validation side, and with its threshold, which there is at the end alone.
        is_due: whether to ask after so many epochs.
        features_folder: where trainings of one machine share what their teachers say; empty: they
            do not.
        forgets: whether the model is gone once it has been measured: no version is saved, so that
            two workers of one config never meet, and nothing is left to be removed.
    """

    marks: Marks
    is_due: Callable[[int], bool]
    features_folder: str = ""
    forgets: bool = False

    @classmethod
    def silent(cls, features_folder: str) -> Self:
        """One that asks nothing: whoever trains measures the version itself."""
        return cls(lambda *_: {}, lambda _: False, features_folder)

    def reporting(
        self, report: Report, model: MRKD, held_out: TeacherFeatures, samples: Sequence[Sample]
    ) -> Report:
        """`report` of rows that hold the marks too, where they are due."""

        def measured(row: Mapping[str, Any]) -> None:
            if self.is_due(int(row["epoch"]) + 1):
                # A map may need what only the end of a training sets.
                calibrate_levels(model, held_out)
                row = {**row, **self.marks(model, samples, None)}
            report(row)

        return measured
