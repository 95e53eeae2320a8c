"""Maps and scores: shapes, the blur against scipy, each rule against its words."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from mrkd.model.anomaly_map import anomaly_map, image_score, level_maps, smooth
from tests.support.features import random_pairs


def test_added_map_is_the_sum_of_the_upsampled_levels():
    levels = level_maps(random_pairs())
    found = anomaly_map(levels, size=(32, 32))
    expected = sum(
        F.interpolate(m[:, None], size=(32, 32), mode="bilinear", align_corners=False)
        for m in levels
    )
    torch.testing.assert_close(found, expected)
    assert found.shape == (2, 1, 32, 32)
    assert found.min() >= -1e-5
    assert found.max() <= 6


def test_calibrated_map_is_the_added_one_of_standardised_levels():
    levels = level_maps(random_pairs())
    mean, std = torch.tensor([0.5, 0.25, 0.125]), torch.tensor([2.0, 1.0, 0.5])
    found = anomaly_map(levels, size=(8, 8), combine="calibrated", mean=mean, std=std)
    by_hand = anomaly_map([(m - mean[n]) / std[n] for n, m in enumerate(levels)], size=(8, 8))
    torch.testing.assert_close(found, by_hand)
    with pytest.raises(ValueError, match="mean and std"):
        anomaly_map(levels, size=(8, 8), combine="calibrated")


def test_multiplied_map_is_zero_where_one_level_is():
    levels = level_maps(random_pairs())
    levels[1] = torch.zeros_like(levels[1])
    assert (anomaly_map(levels, size=(8, 8), combine="multiply") == 0).all()


def test_smooth_equals_scipys_gaussian_filter():
    x = torch.rand(1, 1, 64, 48)
    expected = gaussian_filter(x[0, 0].double().numpy(), 4, radius=16, mode="mirror")
    np.testing.assert_allclose(smooth(x, 4.0)[0, 0].numpy(), expected, atol=1e-5)


def test_smooth_of_sigma_zero_is_the_map_itself():
    x = torch.rand(1, 1, 8, 8)
    assert smooth(x, 0.0) is x


def test_scores_follow_their_rules():
    x = torch.rand(3, 1, 20, 20)
    flat = x.flatten(1)
    torch.testing.assert_close(image_score(x), flat.max(1).values)
    top = flat.sort(1, descending=True).values[:, :4].mean(1)
    torch.testing.assert_close(image_score(x, rule="top_share_mean", top_share=0.01), top)
    torch.testing.assert_close(
        image_score(x, rule="top_share_mean", mean_weight=0.5), top - 0.5 * flat.mean(1)
    )


# regions of interest

DISC = ((torch.arange(32)[:, None] - 14) ** 2 + (torch.arange(32) - 17) ** 2 < 90).float()
CELLS = [F.max_pool2d(DISC[None, None], 32 // side)[0, 0] for side in (16, 8, 4)]
CALIBRATION: dict[str, Any] = {
    "mean": torch.tensor([0.8, 1.0, 1.1]),
    "std": torch.tensor([0.5, 0.1, 0.3]),
}


def region_map(levels, combine, sigma=2.0):
    joined = anomaly_map(levels, size=(32, 32), combine=combine, roi=CELLS, **CALIBRATION)
    return smooth(joined, sigma, roi=DISC)


@pytest.mark.parametrize("combine", ["add", "multiply", "calibrated"])
@pytest.mark.parametrize("sigma", [0.0, 2.0, 8.0])
def test_a_regions_border_is_neither_dimmed_nor_bled_into(combine, sigma):
    levels = [torch.where(cells > 0, 1.5, 1e6)[None] for cells in CELLS]
    flat = [torch.full_like(m, 1.5) for m in levels]
    level = anomaly_map(flat, size=(32, 32), combine=combine, **CALIBRATION)[0, 0, 0, 0]
    found = region_map(levels, combine, sigma)[0, 0]
    torch.testing.assert_close(found, level * DISC)


@pytest.mark.parametrize("combine", ["add", "multiply", "calibrated"])
def test_a_region_that_is_everywhere_changes_no_more_than_rounding(combine):
    levels, ones = level_maps(random_pairs()), torch.ones(32, 32)
    cells = [torch.ones_like(m[0]) for m in levels]
    plain = anomaly_map(levels, size=(32, 32), combine=combine, **CALIBRATION)
    found = anomaly_map(levels, size=(32, 32), combine=combine, roi=cells, **CALIBRATION)
    torch.testing.assert_close(smooth(found, 2.0, roi=ones), smooth(plain, 2.0))
    torch.testing.assert_close(image_score(plain, roi=ones), image_score(plain))


def test_far_from_its_border_a_regions_map_is_the_plain_one():
    levels = level_maps(random_pairs())
    roi = torch.zeros(32, 32)
    roi[:, :20] = 1
    cells = [F.max_pool2d(roi[None, None], 32 // m.shape[-1])[0, 0] for m in levels]
    plain = smooth(anomaly_map(levels, size=(32, 32)), 1.0)
    found = smooth(anomaly_map(levels, size=(32, 32), roi=cells), 1.0, roi=roi)
    # Cells of 4 pixels are outside from 20 on, and mixed in from 18 on; the blur reaches 4 more.
    torch.testing.assert_close(found[..., :14], plain[..., :14])
    assert (found[..., 20:] == 0).all()


@pytest.mark.parametrize(
    "rules", [{}, {"rule": "top_share_mean", "top_share": 0.1}, {"mean_weight": 0.5}]
)
@pytest.mark.parametrize("shift", [0.0, -5.0])
def test_scores_of_a_region_are_those_of_its_pixels_alone(rules, shift):
    # Below 0 the zeros outside would be the highest.
    x = torch.rand(3, 1, 32, 32) + shift
    pixels = x[:, 0, DISC > 0]
    expected = image_score(pixels[:, None, None], **rules)
    torch.testing.assert_close(image_score(x * DISC, **rules, roi=DISC), expected)
