"""Pixel metrics written as their definitions read, by loops over every threshold and pixel.

Shares no code with mrkd and no library with it but numpy; for masks of a few hundred pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def slow_regions(gt_mask: NDArray) -> list[set[tuple[int, int]]]:
    """8-connected regions, each a set of (row, column), by flooding."""
    left = {(int(y), int(x)) for y, x in np.argwhere(gt_mask)}
    regions = []
    while left:
        region, front = set(), [left.pop()]
        while front:
            y, x = front.pop()
            region.add((y, x))
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            front.extend(around)
        regions.append(region)
    return regions


def slow_aupro(
    maps: Sequence[NDArray], gt_masks: Sequence[NDArray], fpr_limit: float = 0.3
) -> float:
    """Mean region overlap over the false positive rate, one threshold after the other."""
    regions = [
        [float(anomaly_map[place]) for place in region]
        for anomaly_map, gt_mask in zip(maps, gt_masks, strict=True)
        for region in slow_regions(gt_mask)
    ]
    good = [float(v) for m, g in zip(maps, gt_masks, strict=True) for v in m[~np.asarray(g, bool)]]
    points = [(0.0, 0.0)]
    for threshold in sorted({float(v) for m in maps for v in np.ravel(m)}, reverse=True):
        fpr = sum(v >= threshold for v in good) / len(good)
        overlaps = [sum(v >= threshold for v in region) / len(region) for region in regions]
        points.append((fpr, sum(overlaps) / len(overlaps)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= fpr_limit:
            break
        if x1 > fpr_limit:
            y1 = y0 + (y1 - y0) * (fpr_limit - x0) / (x1 - x0)
            x1 = fpr_limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / fpr_limit
