import subprocess
import sys

import cv2
import numpy as np
import pytest

from mrkd import seeds
from mrkd.data import synthetic_defects
from mrkd.data.synthetic_defects import KINDS, MIN_CHANGE, SIZES, defect, defects
from tests.support.pictures import smooth

PICTURE = smooth(240, 320)


def make(kind, size, number=0, picture=PICTURE, inside=None):
    return defect(picture, seeds.stream(number, "test"), kind, size=size, inside=inside)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_a_defect_shows_where_its_mask_says_and_nowhere_else(kind, size):
    for number in range(20):
        picture = PICTURE.copy()
        pixels, gt_mask = make(kind, size, number, picture)
        assert (picture == PICTURE).all()
        assert (pixels.dtype, gt_mask.dtype) == (np.uint8, bool)
        assert (pixels.shape, gt_mask.shape) == (picture.shape, picture.shape[:2])
        change = np.abs(pixels.astype(int) - picture)
        assert change[gt_mask].mean() >= MIN_CHANGE
        assert not change[~gt_mask].any()


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_ordered_and_none_fills_the_picture(kind):
    areas = [np.mean([make(kind, size, n)[1].mean() for n in range(30)]) for size in SIZES]
    assert areas[0] < areas[1] / 2 < areas[2] / 4
    assert areas[2] < 0.05


def test_a_scratch_is_long_and_thin_and_the_others_are_not():
    elongation = {}
    for kind in KINDS:
        found = [make(kind, "large", number)[1] for number in range(20)]
        boxes = [cv2.minAreaRect(np.argwhere(gt_mask).astype(np.float32))[1] for gt_mask in found]
        elongation[kind] = np.median(
            [max(box) ** 2 / gt_mask.sum() for box, gt_mask in zip(boxes, found, strict=True)]
        )
    assert elongation["scratch"] > 5 * max(elongation["cut_paste"], elongation["texture"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_grey_picture_stays_grey(kind):
    grey = PICTURE[..., :1].repeat(3, axis=2)
    for number in range(10):
        pixels, _ = make(kind, "large", number, grey)
        assert (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize("tone", [0, 128, 255])
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_one_tone_hides_no_defect(kind, tone):
    plain = np.full((64, 64, 3), tone, np.uint8)
    for number in range(50):
        pixels, gt_mask = make(kind, "small", number, plain)
        assert np.abs(pixels.astype(int) - plain)[gt_mask].mean() >= MIN_CHANGE


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_inside_bounds_place_and_size(kind):
    inside = np.zeros(PICTURE.shape[:2], bool)
    inside[10:40, 200:260] = True
    for number in range(10):
        _, gt_mask = make(kind, "large", number, inside=inside)
        assert not gt_mask[~inside].any()
        assert 0 < gt_mask.sum() < 0.4 * inside.sum()


def test_each_picture_has_one_defect_of_each_kind_and_sizes_vary():
    keys = [f"image-{n}" for n in range(12)]
    found = defects([PICTURE] * 12, seed=0, keys=keys)
    assert [one.kind for one in found] == list(KINDS) * 12
    assert {one.size for one in found} == set(SIZES)
    assert len({one.pixels.tobytes() for one in found}) == 36


def test_a_defect_depends_on_seed_key_and_kind_alone():
    other = smooth(100, 100, seed=1)
    alone = defects([PICTURE], seed=3, keys=["a"])
    beside = defects([other, PICTURE], seed=3, keys=["b", "a"])[3:]
    assert [one.pixels.tobytes() for one in alone] == [one.pixels.tobytes() for one in beside]
    for seed, key in ((4, "a"), (3, "c")):
        moved = defects([PICTURE], seed=seed, keys=[key])
        assert not any((a.gt_mask == b.gt_mask).all() for a, b in zip(alone, moved, strict=True))


def test_another_process_draws_the_same():
    code = (
        "import hashlib\nfrom mrkd.data.synthetic_defects import defects\n"
        "from tests.support.pictures import smooth\n"
        "made = defects([smooth(240, 320)], seed=0, keys=['a'])\n"
        "print(*(hashlib.sha256(one.pixels.tobytes()).hexdigest() for one in made))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": salt, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for salt in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert len(runs[0].split()) == 3


def test_a_picture_of_one_pixel_can_be_damaged():
    for kind in KINDS:
        pixels, gt_mask = make(kind, "small", picture=np.full((1, 1, 3), 90, np.uint8))
        assert gt_mask.all()
        assert (pixels != 90).all()


def test_nowhere_to_draw_and_a_region_of_another_size_are_refused():
    with pytest.raises(ValueError, match="no pixel to draw on"):
        make("texture", "small", inside=np.zeros(PICTURE.shape[:2], bool))
    with pytest.raises(ValueError, match=r"inside is \(5, 5\), the image \(240, 320\)"):
        make("texture", "small", inside=np.ones((5, 5), bool))
    with pytest.raises(ValueError, match="zip"):
        synthetic_defects.defects([PICTURE], seed=0, keys=[])
