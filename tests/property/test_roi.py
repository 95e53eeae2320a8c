"""Any region of interest: what lies outside has no part in map and score."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn import functional as F

from mrkd.config import RoiConfig
from mrkd.data.roi import Roi
from mrkd.model.anomaly_map import anomaly_map, image_score

SIDE, STRIDES = 16, (2, 4, 8)
REGIONS = arrays(bool, (SIDE, SIDE)).filter(np.any).map(lambda a: torch.from_numpy(a).float())
LEVELS = st.integers(0, 2**32 - 1).map(
    lambda seed: [
        torch.rand(2, SIDE // s, SIDE // s, generator=torch.Generator().manual_seed(seed))
        for s in STRIDES
    ]
)
COMBINES = st.sampled_from(["add", "multiply", "calibrated"])
SIGMAS = st.sampled_from([0.0, 0.5, 1.0, 4.0])


def cells_of(roi):
    return [F.max_pool2d(roi[None, None], stride)[0, 0] for stride in STRIDES]


def whole_map(levels, roi, combine="add", sigma=1.0):
    return anomaly_map(
        levels,
        size=(SIDE, SIDE),
        combine=combine,
        roi=cells_of(roi),
        mean=torch.full((3,), 0.5),
        std=torch.full((3,), 0.25),
        sigma=sigma,
        pixel_roi=roi,
    )


@settings(max_examples=50)
@given(REGIONS, LEVELS, COMBINES, SIGMAS, st.floats(-1e6, 1e6, width=32))
def test_what_lies_outside_changes_no_bit(roi, levels, combine, sigma, value):
    changed = [torch.where(r > 0, m, value) for m, r in zip(levels, cells_of(roi), strict=True)]
    before, after = (whole_map(m, roi, combine, sigma) for m in (levels, changed))
    assert torch.equal(before, after)
    assert (after[..., roi == 0] == 0).all()
    for rules in ({}, {"rule": "top_share_mean", "top_share": 0.1}, {"mean_weight": 0.5}):
        painted = torch.where(roi > 0, after, value)
        assert torch.equal(
            image_score(painted, roi=roi, **rules), image_score(before, roi=roi, **rules)
        )


@settings(max_examples=50)
@given(REGIONS, LEVELS, SIGMAS)
def test_a_map_inside_lies_between_its_lowest_and_highest_cells(roi, levels, sigma):
    inside = whole_map(levels, roi, sigma=sigma)[:, 0, roi > 0]
    cells = [m[:, r > 0] for m, r in zip(levels, cells_of(roi), strict=True)]
    low, high = sum(m.amin(1) for m in cells), sum(m.amax(1) for m in cells)
    assert (inside >= low[:, None] - 1e-5).all()
    assert (inside <= high[:, None] + 1e-5).all()


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_a_region_survives_storage(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    np.testing.assert_array_equal(Roi.from_json(Roi(mask, RoiConfig()).to_json()).mask, mask)
