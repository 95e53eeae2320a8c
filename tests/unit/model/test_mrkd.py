"""The network as a whole: shapes, switches, and the one scoring path."""

import dataclasses

import numpy as np
import pytest
import torch

from mrkd.config import ModelConfig, RoiConfig
from mrkd.data.roi import Roi
from mrkd.errors import ConfigError
from mrkd.model.detector import infer
from mrkd.model.layers import FeatureMaskGeneration
from mrkd.model.mrkd import MRKD, build
from mrkd.model.teacher.teacher import load_teacher


@pytest.fixture(scope="module")
def resnet():
    return load_teacher("resnet18", weights="random", seed=0)


@pytest.fixture(scope="module")
def lite():
    return load_teacher("efficientnet_lite0", weights="random", seed=0)


def _config(**values):
    return dataclasses.replace(ModelConfig(backbone="resnet18", image_size=64), **values)


SWITCHES: list[dict[str, object]] = [
    {},
    {"fmm": False},
    {"generation": "residual"},
    {"scconv": False},
    {"simam": False},
    {"sru_gate": "hard"},
    {"fmm": False, "scconv": False, "simam": False},
    {"levels": (3,)},
    {"levels": (1, 3)},
    {"levels": (1,), "fmm": False},
    {"distance": "flat", "combine": "multiply"},
    {"feature_norm": "standardise", "anchor": 1.0, "combine": "calibrated"},
]


@pytest.mark.parametrize(
    ("teacher", "values"),
    [*(("lite", v) for v in SWITCHES), ("resnet", {}), ("resnet", {"fmm": False})],
)
def test_every_switch_leaves_a_model_that_trains_all_its_parameters(teacher, values, request):
    teacher = request.getfixturevalue(teacher)
    model = build(_config(**values), teacher, seed=0)
    pairs = model.train()(torch.randn(2, 3, 64, 64))
    assert len(pairs.teacher) == len(values.get("levels", (1, 2, 3)))
    sum(s.square().mean() for s in pairs.student).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.requires_grad != name.startswith("teacher.") or "norm" in name


def test_masks_change_the_student_in_training_only_through_fmm(resnet):
    model = build(_config(), resnet, seed=0).eval()
    levels = model.teacher_features(torch.randn(2, 3, 64, 64))
    masks = [torch.zeros(2, 1, *levels[n].shape[-2:]) for n in range(3)]
    unmasked, masked = model.pairs(levels), model.pairs(levels, masks)
    assert not any(torch.equal(a, b) for a, b in zip(unmasked.student, masked.student, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(unmasked.teacher, masked.teacher, strict=True))


def test_signed_features_get_a_linear_head_without_fmm(lite, resnet):
    signed = build(_config(fmm=False), lite, seed=0)
    assert [type(h) for h in signed.heads] == [torch.nn.Conv2d] * 3
    assert [type(h) for h in build(_config(fmm=False), resnet, seed=0).heads] == (
        [torch.nn.Identity] * 3
    )
    assert [type(h) for h in build(_config(), lite, seed=0).heads] == [FeatureMaskGeneration] * 3


def test_weights_hang_on_the_seed_alone(resnet):
    state = [build(_config(), resnet, seed=s).trained_state() for s in (3, 3, 4)]
    assert all(torch.equal(state[0][k], state[1][k]) for k in state[0])
    assert not all(torch.equal(state[0][k], state[2][k]) for k in state[0])


def test_trained_state_leaves_the_teacher_out_and_loads_strictly(resnet):
    model, other = build(_config(), resnet, seed=0), build(_config(), resnet, seed=1)
    state = model.trained_state()
    assert not any(name.startswith("teacher") for name in state)
    other.load_trained_state(state)
    assert all(torch.equal(state[k], v) for k, v in other.trained_state().items())
    with pytest.raises(RuntimeError, match="level_mean"):
        other.load_trained_state({k: v for k, v in state.items() if k != "level_mean"})


def test_infer_gives_a_row_the_same_map_and_score_in_any_company(resnet):
    model = build(_config(), resnet, seed=0).eval()
    pixels = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)
    maps, scores, _ = infer(model, pixels)
    assert maps.shape == (4, 64, 64)
    assert scores.shape == (4,)
    assert maps.dtype is torch.float32
    swapped = infer(model, pixels[[0, 3, 2, 1]])
    torch.testing.assert_close(swapped[1][0], scores[0], rtol=0, atol=0)


def test_map_and_score_are_float32_under_autocast(resnet):
    model = build(_config(), resnet, seed=0).eval()
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        maps, scores, _ = infer(model, pixels)
    assert maps.dtype is torch.float32
    # bfloat16 has 8 bits: a map that was blurred in it would repeat values over and over.
    assert len(maps.unique()) > 0.9 * maps.numel()
    torch.testing.assert_close(scores, maps.flatten(1).amax(1))


def test_what_a_student_is_compared_with_is_float32_under_autocast(resnet):
    model = build(_config(), resnet, seed=0).eval()
    tensor = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        exact = model(tensor)
        with torch.autocast("cpu", torch.float16):
            rough = model(tensor)
    for ours, theirs in zip(rough.teacher, exact.teacher, strict=True):
        assert torch.equal(ours, theirs)
    assert all(level.dtype is torch.float16 for level in rough.student)


def test_infer_refuses_a_model_in_training_and_another_size(resnet):
    model = build(_config(), resnet, seed=0)
    with pytest.raises(ValueError, match="training mode"):
        infer(model.train(), torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="64 px"):
        infer(model.eval(), torch.zeros(1, 32, 32, 3, dtype=torch.uint8))


def test_a_level_or_channels_that_do_not_fit_are_named(resnet):
    with pytest.raises(ConfigError, match="has 3"):
        MRKD(_config(levels=(4,)), resnet)
    with pytest.raises(ConfigError, match=r"256 channels.*sru_groups \(7\)"):
        MRKD(_config(sru_groups=7), resnet)


def _rectangle(top, bottom, left, right):
    mask = np.zeros((64, 64), bool)
    mask[top:bottom, left:right] = True
    return Roi(mask, RoiConfig())


@pytest.mark.parametrize(("size", "near"), [(224, "192 or 256"), (32, "take a multiple of 64, 64")])
def test_a_size_whose_levels_do_not_come_back_is_refused(lite, size, near):
    with pytest.raises(ConfigError, match=near):
        MRKD(_config(backbone="efficientnet_lite0", image_size=size), lite)


def test_a_levels_cell_is_inside_a_region_if_any_of_its_area_is(resnet):
    model = build(_config(levels=(1, 3)), resnet, seed=0, roi=_rectangle(15, 33, 4, 64))
    assert model.pixel_roi.sum() == 18 * 60
    expected = [torch.zeros(side, side) for side in (16, 8, 4)]
    expected[0][3:9, 1:], expected[1][1:5], expected[2][0:3] = 1, 1, 1
    for found, region in zip(model.all_level_roi, expected, strict=True):
        assert torch.equal(found, region)
    for found, n in zip(model.level_roi, (0, 2), strict=True):
        assert torch.equal(found, expected[n])


def test_a_region_is_no_part_of_what_training_made(resnet):
    plain, model = (build(_config(), resnet, seed=0, roi=r) for r in (None, _rectangle(0, 9, 0, 9)))
    assert (plain.roi, plain.pixel_roi, plain.level_roi, plain.all_level_roi) == (None,) * 4
    assert model.trained_state().keys() == plain.trained_state().keys()
    assert all(torch.equal(plain.trained_state()[k], v) for k, v in model.trained_state().items())
    plain.load_trained_state(model.trained_state())


def test_outside_a_region_the_map_is_zero_and_the_teacher_sees_nothing(resnet):
    model = build(_config(), resnet, seed=0, roi=_rectangle(10, 30, 20, 50)).eval()
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    found, scores, _ = infer(model, pixels)
    assert (found[:, model.pixel_roi == 0] == 0).all()
    assert (found[:, model.pixel_roi > 0] > 0).all()
    pixels[:, :10] = pixels[:, 30:] = 255
    again = infer(model, pixels)
    assert torch.equal(again[0], found)
    assert torch.equal(again[1], scores)
