"""Batches of any category to rows of a night."""

from __future__ import annotations

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from mrkd.config import PoolConfig, RowsConfig
from mrkd.data.preprocess import Decoded
from mrkd.model import device, good_ranges
from mrkd.model.artefact import Calibration, save_load
from mrkd.model.artefact.save_load import LoadedModel
from mrkd.model.detector import Detector
from mrkd.model.inference.forward import batch_size_on, score_each, within
from mrkd.model.inference.regions import find_regions
from mrkd.model.inference.scored import Scored
from mrkd.model.teacher import Teacher
from mrkd.storage import schema

log = logging.getLogger(__name__)


class Scorer:
    """Scores batches of any category of a workspace, for any thread; loads models as they come.

    Keeps the last used students and one teacher for all that share it. Each model scores in the
    precision that its thresholds were made in.

    Args:
        workspace: URI.
        pool: batch size, models in memory, device, and the precision that models must have.
    """

    def __init__(self, workspace: str, pool: PoolConfig) -> None:
        self.placement = device.choose(pool.device, "float32")
        log.info("scorer_start device=%s reason=%s", self.placement.device, self.placement.reason)
        self._workspace, self._pool = workspace, pool
        self._lock = threading.Lock()
        self._models: OrderedDict[tuple[str, str, int], LoadedModel] = OrderedDict()
        # Weak: a teacher stays as long as a model in memory has it.
        self._teachers: WeakValueDictionary[str, Teacher] = WeakValueDictionary()

    def score(
        self,
        decoded: Sequence[Decoded],
        *,
        category: str,
        version: str,
        calibration: int = 1,
        rows: RowsConfig,
    ) -> list[dict[str, Any]]:
        """One row of `schema.SCORES` for each image, errors too, in order, without `revision`.

        Raises:
            ArtefactError: the model or its calibration is damaged or missing.
            ConfigError: the model was calibrated in another precision than the pool asks for.
        """
        with self._lock:
            loaded = self._load(category, version, calibration)
        found = score_rows(
            loaded.model,
            loaded.calibration,
            decoded,
            batch_size=batch_size_on(self.placement.device, self._pool),
            rows=rows,
        )
        pinned = {
            "model_version": version,
            "calibration": calibration,
            "teacher": loaded.card.teacher.name,
        }
        return [row | pinned for row in found]

    def _load(self, category: str, version: str, calibration: int) -> LoadedModel:
        key = (category, version, calibration)
        if key not in self._models:
            loaded = save_load.load(
                self._workspace,
                category,
                version,
                calibration=calibration,
                teachers=self._teachers,
            )
            loaded.card.check_precision(self._pool.precision)
            loaded.model.to(self.placement.device)
            self._models[key] = loaded
            log.info("model_loaded category=%s version=%s", category, version)
        self._models.move_to_end(key)
        while len(self._models) > self._pool.models_in_memory:
            self._models.popitem(last=False)
        return self._models[key]


def score_rows(
    model: Detector,
    calibration: Calibration,
    decoded: Sequence[Decoded],
    *,
    batch_size: int,
    rows: RowsConfig,
) -> list[dict[str, Any]]:
    """One row of `schema.SCORES` for each image, in order, without what names the model.

    Args:
        model: in eval mode, on the device to score on.
        calibration: thresholds for the model's scores.
        decoded: images of one category, errors among them.
        batch_size: the one shape of all forward passes.
        rows: what is stored.
    """
    decoded = [within(model.roi, image) for image in decoded]
    results = score_each(
        model,
        [image for image in decoded if image.error_kind is None],
        batch_size=batch_size,
        map_size=rows.map_size,
    )
    found = (image if image.error_kind else next(results) for image in decoded)
    return [
        _error_row(one) if isinstance(one, Decoded) else _row(one, calibration, rows)
        for one in found
    ]


def _row(scored: Scored, calibration: Calibration, rows: RowsConfig) -> dict[str, Any]:
    image = scored.decoded
    assert image.geometry is not None
    if not (math.isfinite(scored.image_score) and scored.is_finite):
        message = "the model's map or score is not finite: train the category again"
        return _error_row(replace(image, error_kind="internal", error_message=message))
    is_anomalous = scored.image_score > calibration.threshold
    look = good_ranges.look_of(image) | {good_ranges.MAP_MEAN: scored.map_mean}
    off = good_ranges.outside(calibration.ranges, look)
    if off and not is_anomalous and rows.unlike == "error":
        message = (
            f"unlike all good images ({off}): see whether it shows the part, and how it is lit"
        )
        return _error_row(replace(image, error_kind="unlike", error_message=message))
    in_full = is_anomalous and rows.map_full == "anomalous"
    # No pixel lies above the threshold where the peak does not: most full maps stay where they are.
    has_regions = scored.peak > np.float32(calibration.pixel_threshold)
    shown = scored.anomaly_map if in_full or has_regions else scored.reduced_map
    return {
        **_image_columns(image),
        "image_score": scored.image_score,
        "p_value": float(calibration.p_values(scored.image_score)),
        "threshold": calibration.threshold,
        "is_anomalous": is_anomalous,
        **schema.encode_map(shown if in_full else scored.reduced_map, rows.map),
        "regions": find_regions(
            shown,
            image.geometry,
            threshold=calibration.pixel_threshold,
            limit=rows.max_regions,
            roi=scored.roi,
        )
        if has_regions
        else [],
    }


def _error_row(image: Decoded) -> dict[str, Any]:
    return {
        **_image_columns(image),
        "error_kind": image.error_kind,
        "error_message": image.error_message,
    }


def _image_columns(image: Decoded) -> dict[str, Any]:
    height, width = image.geometry.original if image.geometry else (None, None)
    return {
        "image_uri": image.image_uri,
        "attributes": list(image.attributes.items()),
        "image_etag": image.etag,
        "image_bytes": image.num_bytes,
        "image_height": height,
        "image_width": width,
        **(vars(image.statistics) if image.statistics else {}),
    }
