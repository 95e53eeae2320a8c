"""Bottleneck, student and masks against the vectors of spec section 9 and their shapes."""

import pytest
import torch
from torch import nn

from mrkd.model.layers import (
    BottleneckBlock,
    ChannelReconstruction,
    Decoder,
    DecoderBlock,
    FeatureMaskGeneration,
    MultiScaleFusion,
    SimAM,
    SpatialReconstruction,
    stage,
)


def test_simam_equals_the_hand_computed_vector():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    expected = torch.tensor([0.697934, 1.262460, 1.893690, 2.791737])
    torch.testing.assert_close(SimAM()(x).flatten(), expected, atol=1e-6, rtol=0)


def test_simam_weighs_a_single_pixel_by_sigmoid_of_a_half():
    x = torch.tensor([[[[2.0]]]])
    torch.testing.assert_close(SimAM()(x), x * torch.sigmoid(torch.tensor(0.5)))


def _sru(gate):
    sru = SpatialReconstruction(4, gate=gate, groups=2)
    with torch.no_grad():
        sru.norm.weight.copy_(torch.tensor([0.5, 1.5, 1.0, 1.0]))
        sru.norm.bias.copy_(torch.tensor([0.0, 0.1, -0.2, 0.0]))
    return sru


SRU_INPUT = torch.tensor(
    [[-6.0, -5, -4, -3], [3, 1.5, 0, -1.5], [2, 3, 4, 5], [6, 10, 6, 10]]
).view(1, 4, 2, 2)
SRU_WEIGHTS = torch.tensor(
    [
        [0.478435, 0.483659, 0.488886, 0.494115],
        [0.722231, 0.662192, 0.596427, 0.527004],
        [0.404169, 0.426057, 0.448238, 0.470628],
        [0.505635, 0.594647, 0.505635, 0.594647],
    ]
).view(1, 4, 2, 2)


def test_sru_weights_and_hard_gate_equal_the_hand_computed_vector():
    sru = _sru("hard")
    torch.testing.assert_close(sru.weights(SRU_INPUT), SRU_WEIGHTS, atol=1e-6, rtol=0)
    expected = torch.tensor(
        [[2.0, 3, 4, 5], [3, 1.5, 0, -1.5], [-6, -5, -4, -3], [6, 10, 6, 10]]
    ).view(1, 4, 2, 2)
    torch.testing.assert_close(sru(SRU_INPUT), expected)


def test_sru_soft_gate_lets_the_weight_itself_through_below_a_half():
    informative = torch.where(SRU_WEIGHTS > 0.5, 1.0, SRU_WEIGHTS) * SRU_INPUT
    rest = torch.where(SRU_WEIGHTS > 0.5, 0.0, SRU_WEIGHTS) * SRU_INPUT
    expected = torch.cat([informative[:, :2] + rest[:, 2:], informative[:, 2:] + rest[:, :2]], 1)
    torch.testing.assert_close(_sru("soft")(SRU_INPUT), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("gate", "trained"), [("hard", False), ("soft", True)])
def test_the_hard_gate_freezes_the_norm_that_it_gives_no_gradient(gate, trained):
    assert all(
        p.requires_grad is trained for p in SpatialReconstruction(32, gate=gate).parameters()
    )


def test_cru_weighs_its_two_branches_to_one_per_channel():
    cru = ChannelReconstruction(16)
    x = torch.randn(2, 16, 5, 5)
    upper, lower = cru.squeeze_upper(x[:, :8]), cru.squeeze_lower(x[:, 8:])
    rich = cru.group_wise(upper) + cru.point_wise_upper(upper)
    cheap = torch.cat([cru.point_wise_lower(lower), lower], 1)
    out = cru(x)
    # A convex mix: every value lies between the two branches', and none is shrunk by 2C.
    low, high = torch.minimum(rich, cheap), torch.maximum(rich, cheap)
    assert ((out >= low - 1e-5) & (out <= high + 1e-5)).all()


@pytest.mark.parametrize(
    ("channels", "strides"),
    [((64, 128, 256), (4, 8, 16)), ((40, 112, 192), (8, 16, 32)), ((192, 320), (32, 32))],
)
def test_fusion_brings_all_levels_to_the_deepest(channels, strides):
    levels = [torch.randn(2, c, 256 // s, 256 // s) for c, s in zip(channels, strides, strict=True)]
    fused = MultiScaleFusion(channels, strides)(levels)
    assert fused.shape == levels[-1].shape


def test_fusion_takes_the_shallow_level_through_the_middle_ones_channels():
    downs = MultiScaleFusion((64, 128, 256), (4, 8, 16)).downs
    convs = [[m for m in down.modules() if isinstance(m, nn.Conv2d)] for down in downs]
    assert [[conv.out_channels for conv in down] for down in convs] == [[128, 256], [256], []]
    assert all(conv.bias is None for down in convs for conv in down)


@pytest.mark.parametrize(
    ("block", "channels", "planes", "blocks", "width"),
    [
        (DecoderBlock, (64, 128, 256), 512, (2, 2, 2), 64),
        (BottleneckBlock, (256, 512, 1024), 512, (6, 4, 3), 128),
    ],
)
def test_embedding_and_decoder_mirror_the_teacher(block, channels, planes, blocks, width):
    with torch.device("meta"):
        embed = stage(block, channels[-1], planes, 2, resample="down", base_width=width)
        code = embed(torch.empty(1, channels[-1], 16, 16))
        assert code.shape == (1, planes * block.expansion, 8, 8)
        decode = Decoder(
            block, code.shape[1], channels, (4, 8, 16), blocks, levels=(0, 1, 2), base_width=width
        )
        shapes = [tuple(x.shape) for x in decode(code)]
    assert shapes == [(1, c, 64 >> n, 64 >> n) for n, c in enumerate(channels)]
    assert [len(list(s.children())) for s in decode.stages] == list(blocks[::-1])


def test_decoder_stops_at_the_shallowest_level_in_use():
    decode = Decoder(DecoderBlock, 64, (8, 16, 32), (8, 16, 32), (2, 2, 2), levels=(1,))
    outputs = decode(torch.randn(2, 64, 4, 4))
    assert [tuple(x.shape) for x in outputs] == [(2, 16, 16, 16)]
    assert len(decode.stages) == 2


def test_a_hidden_pixel_reaches_the_output_only_through_its_neighbours():
    fmm = FeatureMaskGeneration(4)
    x = torch.randn(1, 4, 9, 9)
    changed = x.clone()
    changed[..., 4, 4] += 10
    mask = torch.ones(1, 1, 9, 9)
    mask[..., 4, 4] = 0
    torch.testing.assert_close(fmm(x, mask), fmm(changed, mask))
    assert not torch.equal(fmm(x), fmm(changed))
    assert all(m.bias is not None for m in (fmm.align, fmm.generate[0], fmm.generate[2]))


def test_residual_generation_adds_to_the_whole_aligned_features():
    fmm = FeatureMaskGeneration(4, residual=True)
    x, mask = torch.randn(1, 4, 9, 9), torch.ones(1, 1, 9, 9)
    mask[..., 4, 4] = 0
    aligned = fmm.align(x)
    torch.testing.assert_close(fmm(x, mask), aligned + fmm.generate(aligned * mask))
