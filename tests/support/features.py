"""What tests of features share."""

import torch

from mrkd.backbones import Backbone, Teacher


def assert_same_features(teacher: Teacher, network: Backbone) -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for found, expected in zip(teacher(images), network.levels(images), strict=True):
            torch.testing.assert_close(
                found, expected, rtol=0, atol=1e-4 * expected.abs().max().item()
            )
