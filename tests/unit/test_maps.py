"""Maps and scores: shapes, the blur against scipy, each rule against its words."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from mrkd.features import FeaturePairs
from mrkd.maps import anomaly_map, image_score, level_maps, smooth


def _pairs():
    generator = torch.Generator().manual_seed(0)
    teacher = tuple(torch.randn(2, 8, s, s, generator=generator) for s in (16, 8, 4))
    student = tuple(torch.randn(2, 8, s, s, generator=generator) for s in (16, 8, 4))
    return FeaturePairs(teacher, student)


def test_added_map_is_the_sum_of_the_upsampled_levels():
    levels = level_maps(_pairs())
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
    levels = level_maps(_pairs())
    mean, std = torch.tensor([0.5, 0.25, 0.125]), torch.tensor([2.0, 1.0, 0.5])
    found = anomaly_map(levels, size=(8, 8), combine="calibrated", mean=mean, std=std)
    by_hand = anomaly_map([(m - mean[n]) / std[n] for n, m in enumerate(levels)], size=(8, 8))
    torch.testing.assert_close(found, by_hand)
    with pytest.raises(ValueError, match="mean and std"):
        anomaly_map(levels, size=(8, 8), combine="calibrated")


def test_multiplied_map_is_zero_where_one_level_is():
    levels = level_maps(_pairs())
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
