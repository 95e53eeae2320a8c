"""Distances and loss against the vector of spec section 9 and torch's own cosine."""

import pytest
import torch
from torch.nn import functional as F

from mrkd.model.feature_pairs import FeaturePairs, cosine_distance
from mrkd.model.loss import distillation_loss, flat_distance
from tests.support.features import random_pairs

T = torch.tensor([[[[1.0, 0], [0, 1]], [[0, 1], [1, 1]]]])
S = torch.tensor([[[[1.0, 1], [0, -1]], [[0, 1], [2, 1]]]])


def test_distance_equals_the_hand_computed_vector():
    found = cosine_distance(T, S)
    torch.testing.assert_close(
        found.flatten(), torch.tensor([0, 0.292893, 0, 1.0]), atol=1e-6, rtol=0
    )
    assert distillation_loss(FeaturePairs((T,), (S,))).item() == pytest.approx(0.323223, abs=1e-6)


def test_distance_equals_torch_cosine_similarity():
    t, s = torch.randn(2, 7, 5, 4), torch.randn(2, 7, 5, 4)
    torch.testing.assert_close(cosine_distance(t, s), 1 - F.cosine_similarity(t, s, dim=1))
    torch.testing.assert_close(
        flat_distance(t, s), 1 - F.cosine_similarity(t.flatten(1), s.flatten(1), dim=1)
    )


def test_anchor_is_a_constant_channel_on_both_sides():
    t, s = torch.randn(2, 6, 3, 3), torch.randn(2, 6, 3, 3)
    constant = torch.full((2, 1, 3, 3), 0.5 * 6**0.5)
    appended = cosine_distance(torch.cat([t, constant], 1), torch.cat([s, constant], 1))
    torch.testing.assert_close(cosine_distance(t, s, anchor=0.5), appended)


def test_distance_of_zero_features_is_one_and_has_a_finite_gradient():
    s = torch.zeros(1, 3, 2, 2, requires_grad=True)
    found = cosine_distance(torch.zeros(1, 3, 2, 2), s)
    found.sum().backward()
    assert (found == 1).all()
    assert s.grad.isfinite().all()


def test_distance_is_computed_in_float32():
    t = torch.randn(1, 64, 4, 4)
    assert cosine_distance(t.half(), t.half()).dtype is torch.float32


def test_loss_sums_levels_and_adds_the_hardest_pixels():
    t, s = torch.randn(2, 6, 10, 10), torch.randn(2, 6, 10, 10)
    plain = cosine_distance(t, s)
    hardest = plain.flatten(1).sort(1, descending=True).values[:, :10].mean()
    pairs = FeaturePairs((t, t), (s, s))
    found = distillation_loss(pairs, hard_pixel_share=0.1)
    torch.testing.assert_close(found, 2 * (plain.mean() + hardest))


@pytest.mark.parametrize("distance", ["pixel", "flat"])
def test_loss_of_a_region_is_the_loss_of_what_lies_in_it(distance):
    pairs, rules = random_pairs(), {"distance": distance, "anchor": 1.0, "hard_pixel_share": 0.1}
    roi = [torch.zeros(t.shape[-2:]) for t in pairs.teacher]
    for region in roi:
        region[1:, : region.shape[1] // 2] = 1
    cut = [
        tuple(t[..., 1:, : t.shape[3] // 2] for t in side)
        for side in (pairs.teacher, pairs.student)
    ]
    expected = distillation_loss(FeaturePairs(*cut), **rules)
    torch.testing.assert_close(distillation_loss(pairs, **rules, roi=roi), expected)
    everywhere = [torch.ones_like(region) for region in roi]
    torch.testing.assert_close(
        distillation_loss(pairs, **rules, roi=everywhere), distillation_loss(pairs, **rules)
    )


@pytest.mark.parametrize("distance", ["pixel", "flat"])
def test_nothing_is_learnt_from_outside_a_region(distance):
    pairs = random_pairs()
    for s in pairs.student:
        s.requires_grad_()
    roi = [torch.eye(t.shape[-1]) for t in pairs.teacher]
    distillation_loss(pairs, distance=distance, hard_pixel_share=0.5, roi=roi).backward()
    for s, region in zip(pairs.student, roi, strict=True):
        assert (s.grad[..., region == 0] == 0).all()
        assert (s.grad[..., region > 0] != 0).any(1).all()


def test_pairs_of_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match="teacher features are"):
        FeaturePairs((T,), (S[:, :1],))
