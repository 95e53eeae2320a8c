"""Pictures of any size are cut and put together without gap, seam or shift."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrkd.data.images import Tiling
from mrkd.model.inference.tile_canvas import Canvas

SIDES = st.integers(2, 40)


@st.composite
def tilings(draw):
    side = draw(SIDES)
    return Tiling(
        original=(draw(st.integers(1, 90)), draw(st.integers(1, 90))),
        side=side,
        overlap=draw(st.integers(0, side // 2)),
        size=draw(st.sampled_from([2, 8, 32])),
        policy=draw(st.sampled_from(["stretch", "letterbox"])),
    )


@settings(max_examples=200)
@given(tilings())
def test_tiles_cover_the_picture_to_its_borders_and_their_weights_add_up_to_one(tiling):
    for spans, length, canvas in zip(tiling.axes, tiling.original, tiling.canvas, strict=True):
        assert spans[0].original[0] == spans[0].canvas[0] == 0
        assert (spans[-1].original[1], spans[-1].canvas[1]) == (length, canvas)
        total = np.zeros(canvas)
        for span, following in zip(spans, [*spans[1:], None], strict=True):
            assert span.original[1] - span.original[0] == min(tiling.side, length)
            if length >= tiling.side:
                assert span.canvas[1] - span.canvas[0] == tiling.size
            if following:
                shared = span.original[1] - following.original[0]
                assert tiling.overlap <= shared < tiling.side
            assert (span.weights > 0).all()
            total[slice(*span.canvas)] += span.weights
        np.testing.assert_allclose(total, 1, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(tilings(), st.integers(0, 2**32 - 1))
def test_flat_tiles_make_a_flat_canvas_in_whatever_order_they_come(tiling, seed):
    canvas = Canvas(tiling, 1, torch.device("cpu"))
    for number in np.random.default_rng(seed).permutation(len(tiling)):
        canvas.add(int(number), torch.full((1, tiling.size, tiling.size), -3.5))
    np.testing.assert_allclose(canvas.maps_KHW[0].numpy(), -3.5, rtol=2e-6)


@settings(max_examples=50, deadline=None)
@given(tilings())
def test_what_is_cut_from_a_picture_lies_on_its_canvas_where_it_was(tiling):
    height, width = tiling.original
    ramp = np.add.outer(2.0 * np.arange(height), np.arange(width))
    rgb = np.repeat((ramp / max(ramp.max(), 1) * 255).astype(np.uint8)[..., None], 3, axis=2)
    canvas = Canvas(tiling, 1, torch.device("cpu"))
    for number, tile in enumerate(tiling.cut(rgb)):
        canvas.add(number, torch.from_numpy(tile[None, ..., 0].astype(np.float32)))
    rows, columns = ((np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(
        tiling.canvas, tiling.original, strict=True
    ))  # fmt: skip
    expected = np.add.outer(2 * rows, columns) / max(ramp.max(), 1) * 255
    # Half a pixel of the canvas, one of the picture, and what a tile's edge repeats.
    step = 255 * 3 / max(ramp.max(), 1) * max(1, tiling.side / tiling.size)
    assert np.abs(canvas.maps_KHW[0].numpy() - expected).max() <= 1.5 * step + 2
