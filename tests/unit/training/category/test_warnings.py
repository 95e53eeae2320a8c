"""Warnings about the good images of a training."""

import cv2
import numpy as np
import pytest

from mrkd.data import datasets
from mrkd.data.preprocess import Preprocessor
from mrkd.training.category import split_images
from mrkd.training.category.warnings import almost_black
from tests.support.models import small_config

RNG = np.random.default_rng(0)


def images_of(folder, values):
    """Good images with the values, decoded as for a training."""
    good = folder / "plate" / "train" / "good"
    good.mkdir(parents=True)
    for number, image in enumerate(values):
        suffix = ".tif" if number % 2 else ".png"
        assert cv2.imwrite(str(good / f"{number}{suffix}"), image)
    samples = datasets.load(small_config(str(folder), str(folder / "w")).data)["plate"]
    good, _ = split_images.read_good(samples)
    return split_images.decode_good(good, Preprocessor(32, "letterbox"))


def drawn(bits, dtype=np.uint16, num=6):
    return [RNG.integers(0, 2**bits, (24, 40, 3)).astype(dtype) for _ in range(num)]


@pytest.mark.parametrize("bits", [10, 12])
def test_10_or_12_bits_in_files_of_16_are_a_warning_that_says_what_to_do(tmp_path, bits):
    (warning,) = almost_black(images_of(tmp_path, drawn(bits)))
    assert "all 6 good images are almost black" in warning
    assert "10 or 12 bits in 16, multiply the values by 64 or 16" in warning


def test_8_and_16_bits_of_full_scale_are_no_warning(tmp_path):
    assert almost_black(images_of(tmp_path / "wide", drawn(16))) == []
    assert almost_black(images_of(tmp_path / "narrow", drawn(8, np.uint8))) == []


def test_one_bright_image_among_dark_ones_is_no_warning(tmp_path):
    assert almost_black(images_of(tmp_path, [*drawn(12), *drawn(16, num=1)])) == []


def test_dark_images_of_8_bits_are_a_warning_too(tmp_path):
    (warning,) = almost_black(images_of(tmp_path, drawn(3, np.uint8)))
    assert "otherwise light the scene" in warning
