"""Ranges of good images: what lies outside them."""

import cv2
import numpy as np
import pytest

from mrkd.data.preprocess import Preprocessor
from mrkd.model.good_ranges import MAP_MEAN, look_of, merged, outside, ranges_of

DECODER = Preprocessor(64, "stretch")


def look(rgb):
    data = cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()
    return look_of(DECODER("file:///x.png", data))


def part(seed, size=96):
    """An orange part on grey, whose light varies a little."""
    rng = np.random.default_rng(seed)
    rgb = np.full((size, size, 3), 90.0) + rng.normal(0, 4, (size, size, 3))
    rgb[size // 4 : -size // 4, size // 4 : -size // 4] += (110, 50, -60)
    return (rgb * rng.uniform(0.95, 1.05)).clip(0, 255).astype(np.uint8)


ONE = part(0)
FRAMES = {
    "black": ONE * 0,
    "white": ONE * 0 + 255,
    "grey": ONE * 0 + 128,
    "mean": np.full_like(ONE, ONE.reshape(-1, 3).mean(0).astype(np.uint8)),
    "noise": np.random.default_rng(1).integers(0, 256, ONE.shape, np.uint8),
    "negative": 255 - ONE,
    "blur": cv2.GaussianBlur(ONE, (0, 0), 8),
    "dark": ONE // 16,
    "one pixel": ONE[:1, :1],
    "16 pixels": cv2.resize(ONE, (16, 16)),
    # Not on the list.
    "test pattern of a camera": np.repeat(np.eye(8, 3, dtype=np.uint8)[None] * 255, 96, 0).repeat(
        12, 1
    ),
    "overexposed": np.minimum(ONE.astype(np.uint16) * 4, 255).astype(np.uint8),
    "red and blue exchanged": ONE[..., ::-1],
    "three times the size": cv2.resize(ONE, None, fx=3, fy=3),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize("number", [8, 40])
def test_a_frame_without_the_part_lies_outside(frame, number):
    assert outside(ranges_of(look(part(seed)) for seed in range(1, number + 1)), look(frame))


@pytest.mark.parametrize("number", [1, 2, 4, 40])
def test_other_good_images_lie_inside_however_few_are_known(number):
    ranges = ranges_of(look(part(seed)) for seed in range(number))
    assert not any(outside(ranges, look(part(seed))) for seed in range(100, 200))


def test_a_burst_of_equal_images_leaves_room_for_light_that_changes():
    ranges = ranges_of([look(ONE)] * 30)
    for gain in (0.85, 1.15):
        assert not outside(ranges, look((ONE * gain).astype(np.uint8)))


def test_the_reason_names_each_measure_with_its_range():
    ranges = {"brightness": (0.2, 0.4), "contrast": (0.1, 0.2), "size": (90.0, 100.0)}
    reason = outside(ranges, {"brightness": 0.0, "contrast": 0.15, "size": 16.0})
    assert reason == ("brightness 0, good images 0.2 to 0.4; size 16, good images 90 to 100")


def test_of_a_map_a_high_mean_counts_and_a_low_one_does_not():
    """An image that the model was trained on has a calmer map than any other."""
    ranges = ranges_of({MAP_MEAN: value} for value in np.linspace(0, 1, 20))
    low, high = ranges[MAP_MEAN]
    assert low < 0 < 1 < high
    assert [bool(outside(ranges, {MAP_MEAN: v})) for v in (low - 9, 0.5, high + 0.1)] == [
        False, False, True,
    ]  # fmt: skip


def test_too_few_maps_have_no_range():
    assert ranges_of({MAP_MEAN: value} for value in (0.1, 0.2, 0.3)) == {}


def test_ranges_of_two_sets_hold_both_and_lack_what_one_of_them_lacks():
    one, other = {"contrast": (0.1, 0.2), "size": (1.0, 2.0)}, {"contrast": (0.15, 0.3)}
    assert merged(one, other) == {"contrast": (0.1, 0.3)}
