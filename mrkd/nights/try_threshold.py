"""Decisions that another threshold would have made in a night, from its stored scores alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mrkd.nights.manifest import DECISION, category_rows


@dataclass(frozen=True)
class ThresholdTrial:
    """A category of a night by another threshold.

    Args:
        category: its name.
        threshold: rounded to float32, as rows hold scores.
        models: a row for each model and threshold that decided it: `model_version`, `calibration`,
            `threshold`, `ok`, `nok` as they were, `ok_then`, `nok_then` as they would have been,
            `ok_to_nok`, `nok_to_ok`. Another model's scores have another scale.
        flips: images that would have been judged otherwise, the nearest to the new threshold
            first: `image_uri`, `image_score`, `threshold` of the night, `was`, `would_be`.
        errors: images without a score, which no threshold changes.
    """

    category: str
    threshold: float
    models: list[dict[str, Any]]
    flips: pa.Table
    errors: int

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of images over all models."""
        names = ("ok", "nok", "ok_then", "nok_then", "ok_to_nok", "nok_to_ok")
        return {name: sum(row[name] for row in self.models) for name in names} | {
            "errors": self.errors
        }


def try_threshold(night_uri: str, category: str, threshold: float) -> ThresholdTrial:
    """What a threshold would have decided; an image is defective strictly above it.

    Raises:
        NightError: the night is not closed, or holds no such category.
        StorageError: it cannot be read.
    """
    table = category_rows(night_uri, category, DECISION)
    scored = table.filter(pc.is_null(table["error_kind"])).drop_columns(["error_kind"])
    limit = np.float32(threshold)
    then = pc.greater(scored["image_score"], pa.scalar(limit, pa.float32()))
    scored = scored.append_column("would_be_nok", then)
    return ThresholdTrial(
        category=category,
        threshold=float(limit),
        models=list(_by_model(scored)),
        flips=_flips(scored, limit),
        errors=table.num_rows - scored.num_rows,
    )


def _by_model(scored: pa.Table) -> Iterator[dict[str, Any]]:
    """Counts for each model and threshold of the night."""
    keys = ["model_version", "calibration", "threshold"]
    found = (
        scored.select(keys).group_by(keys).aggregate([]).sort_by([(k, "ascending") for k in keys])
    )
    for model in found.to_pylist():
        own = scored
        for name in keys:
            own = own.filter(pc.equal(own[name], pa.scalar(model[name], own[name].type)))
        was, then = (own[name].to_numpy() for name in ("is_anomalous", "would_be_nok"))
        yield model | {
            "ok": int((~was).sum()),
            "nok": int(was.sum()),
            "ok_then": int((~then).sum()),
            "nok_then": int(then.sum()),
            "ok_to_nok": int((then & ~was).sum()),
            "nok_to_ok": int((was & ~then).sum()),
        }


def _flips(scored: pa.Table, limit: np.float32) -> pa.Table:
    flipped = scored.filter(pc.not_equal(scored["is_anomalous"], scored["would_be_nok"]))
    distance = pc.abs(pc.subtract(flipped["image_score"], pa.scalar(limit, pa.float32())))
    flipped = flipped.append_column("distance", distance)
    flipped = flipped.sort_by([("distance", "ascending"), ("image_uri", "ascending")])
    verdicts = {
        name: pc.if_else(flipped[column], "NOK", "OK")
        for name, column in (("was", "is_anomalous"), ("would_be", "would_be_nok"))
    }
    shown = {name: flipped[name] for name in ("image_uri", "image_score", "threshold")}
    return pa.table(shown | verdicts)
