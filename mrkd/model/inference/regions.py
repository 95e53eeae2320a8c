"""Connected regions of an anomaly map."""

from __future__ import annotations

from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from mrkd.data.images import Geometry

T = TypeVar("T", bound=np.generic)


def inside(anomaly_map: NDArray[T], geometry: Geometry) -> NDArray[T]:
    """The part of a map that shows the image, letterbox borders left out: a view."""
    x, y, width, height = geometry.valid
    return anomaly_map[y : y + height, x : x + width]


def find_regions(
    anomaly_map: NDArray[np.float32],
    geometry: Geometry,
    *,
    threshold: float,
    limit: int,
    roi: NDArray[np.bool_] | None = None,
) -> list[dict[str, Any]]:
    """Connected regions strictly above the pixel threshold, the highest peak first.

    Args:
        anomaly_map: float32 `[H, W]`, of `geometry.size`.
        geometry: the image's geometry; letterbox borders are left out.
        threshold: pixel threshold.
        limit: largest number of regions.
        roi: bool `[H, W]`, False where no pixel counts; None: the whole image counts.

    Returns:
        Rows of `schema.REGION`: 8-connected, boxes and areas in original pixels.
    """
    shown = inside(anomaly_map, geometry)
    above = shown > np.float32(threshold)
    if roi is not None:
        # A threshold below 0 has the zeros of the outside above it.
        above &= inside(roi, geometry)
    if not above.any() or not limit:
        return []
    num, labels, stats, _ = cv2.connectedComponentsWithStats(above.astype(np.uint8), connectivity=8)
    # Over the pixels above alone: a large image's map has a hundred million.
    numbers, values = np.asarray(labels[above], np.intp), shown[above]
    peaks = np.full(num, -np.inf, np.float32)
    np.maximum.at(peaks, numbers, values)
    sums = np.bincount(numbers, weights=values, minlength=num)
    left, top, _, _ = geometry.valid
    found = []
    # Number 0 is what lies below the threshold; a stable sort keeps equal peaks in reading order.
    for n in 1 + np.argsort(-peaks[1:], kind="stable")[:limit]:
        x, y, width, height, area = (int(v) for v in stats[n])
        box = geometry.to_original(left + x, top + y, width, height)
        found.append(
            {
                **dict(zip(("x", "y", "width", "height"), box, strict=True)),
                "area": max(1, round(area * geometry.pixel_area)),
                "peak": float(peaks[n]),
                "mean": float(sums[n] / area),
            }
        )
    return found
