"""What tests of features share."""

import torch

from mrkd.model.feature_pairs import FeaturePairs
from mrkd.model.teacher import Teacher
from mrkd.model.teacher.interface import Backbone


def random_pairs() -> FeaturePairs:
    """Two images, three levels of 16, 8 and 4 pixels, 8 channels each."""
    generator = torch.Generator().manual_seed(0)
    teacher = tuple(torch.randn(2, 8, s, s, generator=generator) for s in (16, 8, 4))
    student = tuple(torch.randn(2, 8, s, s, generator=generator) for s in (16, 8, 4))
    return FeaturePairs(teacher, student)


def assert_same_features(teacher: Teacher, network: Backbone) -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for found, expected in zip(teacher(images), network.levels(images), strict=True):
            torch.testing.assert_close(
                found, expected, rtol=0, atol=1e-4 * expected.abs().max().item()
            )
