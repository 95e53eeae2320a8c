"""Networks: official parameter counts and names, levels, and what they recognise."""

import cv2
import pytest
import skimage.data
import torch

from mrkd.data.images import to_tensor
from mrkd.errors import ConfigError
from mrkd.model.teacher.architectures import BACKBONES, build
from mrkd.model.teacher.teacher import load_teacher
from mrkd.model.teacher.weights import WEIGHTS, read_state

LITE_INPUT_SIZES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
TABBY, TIGER_CAT, EGYPTIAN_CAT = 281, 282, 285
COFFEE_MUG, ESPRESSO = 504, 967


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("wide_resnet50_2", 68_883_240),
        ("efficientnet_lite0", 4_652_008),
        ("efficientnet_lite1", 5_416_680),
        ("efficientnet_lite2", 6_092_072),
    ],
)
def test_parameter_count_with_classifier_head_is_the_published_one(backbone, expected):
    with torch.device("meta"):
        network = build(backbone)
    assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ("resnet18", [(64, 64), (128, 32), (256, 16)]),
        ("resnet50", [(256, 64), (512, 32), (1024, 16)]),
        ("wide_resnet50_2", [(256, 64), (512, 32), (1024, 16)]),
        ("efficientnet_lite0", [(40, 32), (112, 16), (192, 8)]),
        ("efficientnet_lite1", [(40, 32), (112, 16), (192, 8)]),
        ("efficientnet_lite2", [(48, 32), (120, 16), (208, 8)]),
    ],
)
def test_levels_have_the_shapes_of_the_specification(backbone, expected):
    with torch.device("meta"):
        network = build(backbone).drop_head()
        levels = network.levels(torch.empty(1, 3, 256, 256))
    assert [tuple(level.shape) for level in levels] == [(1, c, s, s) for c, s in expected]
    assert network.channels == tuple(c for c, _ in expected)
    assert network.strides == tuple(256 // s for _, s in expected)


def test_every_backbone_has_weights_of_its_own_name():
    assert set(BACKBONES) <= set(WEIGHTS)
    assert all(WEIGHTS[name].backbone == name for name in BACKBONES)


def test_taps_choose_the_levels():
    teacher = load_teacher("efficientnet_lite0", taps=(7, 10), weights="random")
    levels = teacher(torch.zeros(1, 3, 64, 96))
    assert [tuple(level.shape) for level in levels] == [(1, 80, 4, 6), (1, 112, 4, 6)]
    assert (teacher.channels, teacher.strides, teacher.taps) == ((80, 112), (16, 16), (7, 10))


def test_padding_rounds_odd_sizes_up():
    with torch.device("meta"):
        levels = build("efficientnet_lite2").levels(torch.empty(1, 3, 260, 75))
    assert [tuple(level.shape[2:]) for level in levels] == [(33, 10), (17, 5), (9, 3)]


@pytest.mark.parametrize("taps", [(4, 16), (-1, 4), (10, 4), (4, 4)])
def test_taps_that_are_not_there_are_a_config_error(taps):
    with pytest.raises(ConfigError, match="blocks from 0 to 15, rising"):
        build("efficientnet_lite0", taps)


def test_taps_of_a_resnet_are_a_config_error():
    with pytest.raises(ConfigError, match=r"model\.taps"):
        build("resnet18", (1, 2))


def test_unknown_backbone_is_a_config_error_that_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"'resnet34', known: resnet18, "):
        build("resnet34")


@pytest.mark.parametrize("backbone", LITE_INPUT_SIZES)
def test_packaged_weights_recognise_a_cat_and_a_cup_of_coffee(backbone):
    network = build(backbone).eval()
    network.load_state_dict(read_state(backbone, "auto", "")[1])
    spec, side = BACKBONES[backbone], LITE_INPUT_SIZES[backbone]
    for picture, expected in (
        (skimage.data.chelsea(), {TABBY, TIGER_CAT, EGYPTIAN_CAT}),
        (skimage.data.coffee(), {COFFEE_MUG, ESPRESSO}),
    ):
        pixels = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        images = to_tensor(torch.from_numpy(pixels)[None], spec.normalisation)
        with torch.no_grad():
            logits = network(images)
        assert logits.argmax().item() in expected
