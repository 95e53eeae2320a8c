"""Ground-truth masks as people draw and store them."""

import cv2
import numpy as np
import pytest

from mrkd.data.images import decode, to_mask


def grey(values):
    return np.repeat(np.array(values, np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("numbers", [(0, 1), (0, 1, 3), (0, 1, 2, 7, 31), (0, 255)])
def test_every_class_number_is_a_defect(numbers):
    assert to_mask(grey([numbers])).tolist() == [[False, *[True] * (len(numbers) - 1)]]


def test_soft_edges_are_cut_in_the_middle_and_a_dark_mask_by_its_own_brightest():
    assert to_mask(grey([[0, 40, 127, 128, 255]])).tolist() == [[False, False, False, True, True]]
    assert to_mask(grey([[0, 30, 60]])).tolist() == [[False, False, True]]


def test_the_ringing_of_a_jpeg_is_no_defect():
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255
    data = cv2.imencode(".jpg", mask, [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes()
    found = to_mask(decode(data))
    assert abs(int(found.sum()) - 400) < 40


def test_an_empty_mask_has_no_defect():
    assert not to_mask(grey([[0, 0]])).any()
