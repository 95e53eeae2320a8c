"""Teachers and networks that several test modules share."""

import pytest
import torch
from torch import nn

from mrkd.model.teacher import Teacher
from mrkd.model.teacher.architectures import build
from mrkd.model.teacher.interface import Backbone
from mrkd.model.teacher.teacher import load_teacher


@pytest.fixture(autouse=True)
def downloads_kept_apart(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture(scope="session")
def resnet18() -> Backbone:
    """Whole, with batch norms that have seen data: what an official checkpoint holds."""
    generator = torch.Generator().manual_seed(0)
    network = build("resnet18").eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            state = module.state_dict()
            for key in ("weight", "running_mean", "running_var"):
                state[key].uniform_(0.5, 1.5, generator=generator)
    return network


@pytest.fixture(scope="session")
def lite0() -> Teacher:
    return load_teacher("efficientnet_lite0")
