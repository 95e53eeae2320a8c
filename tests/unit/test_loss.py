"""Distances and loss against the vector of spec section 9 and torch's own cosine."""

import pytest
import torch
from torch.nn import functional as F

from mrkd.features import FeaturePairs, cosine_distance
from mrkd.loss import distillation_loss, flat_distance

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


def test_pairs_of_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match="teacher features are"):
        FeaturePairs((T,), (S[:, :1],))
