"""BMPs with bit masks have their right colours or are unsupported; damaged runs are found."""

import struct

import numpy as np
import pytest

from mrkd.data import images
from mrkd.errors import ImageDecodeError
from tests.support.pictures import smooth

RNG = np.random.default_rng(0)
RGB = smooth(5, 7)  # rows of 16 bits are filled up
ORDERS = {
    "BGRX": (0xFF0000, 0xFF00, 0xFF),
    "RGBX": (0xFF, 0xFF00, 0xFF0000),
    "XRGB": (0xFF00, 0xFF0000, 0xFF000000),
    "XBGR": (0xFF000000, 0xFF0000, 0xFF00),
}
FIVES = {"5-6-5": (0xF800, 0x7E0, 0x1F), "5-5-5": (0x7C00, 0x3E0, 0x1F)}
HEADERS = [40, 52, 56, 108, 124]


def with_masks(masks, header, bits, coding=3, upright=False):
    values = np.zeros(RGB.shape[:2], np.uint32)
    for channel, mask in enumerate(masks):
        shift = (mask & -mask).bit_length() - 1
        values |= (RGB[..., channel].astype(np.uint32) >> 8 - (mask >> shift).bit_length()) << shift
    rows = values.astype("<u4" if bits == 32 else "<u2").view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, -rows[0].size % 4)))
    alpha = 0xFFFFFFFF & ~sum(masks) if bits == 32 else 0
    height, width = RGB.shape[:2]
    info = struct.pack("<IiiHHI", header, width, -height if upright else height, 1, bits, coding)
    info += struct.pack("<IiiII", rows.size, 0, 0, 0, 0) + struct.pack("<IIII", *masks, alpha)
    info = info[: max(header, 56 if coding == 6 else 52)].ljust(header, b"\0")
    content = (rows if upright else rows[::-1]).tobytes()
    start = 14 + len(info)
    return struct.pack("<2sIHHI", b"BM", start + len(content), 0, 0, start) + info + content


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("order", ORDERS)
def test_32_bits_have_their_right_colours_in_any_order(order, header, upright):
    data = with_masks(ORDERS[order], header, 32, upright=upright)
    np.testing.assert_array_equal(images.decode(data), RGB)


@pytest.mark.parametrize("order", ORDERS)
def test_masks_of_alpha_and_colours_behind_a_short_header_are_read(order):
    np.testing.assert_array_equal(images.decode(with_masks(ORDERS[order], 40, 32, coding=6)), RGB)


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("kind", FIVES)
def test_16_bits_have_their_right_colours(kind, header):
    pixels = images.decode(with_masks(FIVES[kind], header, 16))
    np.testing.assert_allclose(pixels.astype(int), RGB.astype(int), atol=7)


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize(
    ("masks", "bits"),
    [
        ((0x1F, 0x7E0, 0xF800), 16),
        ((0xF00, 0xF0, 0xF), 16),
        ((0xFF0, 0xFF000, 0xFF00000), 32),
        ((0xFF, 0xFF, 0xFF), 32),
    ],
)
def test_other_masks_are_unsupported_by_name(masks, bits, header):
    with pytest.raises(ImageDecodeError, match=f"bit masks {masks[0]:x}") as caught:
        images.decode(with_masks(masks, header, bits))
    assert caught.value.kind == "unsupported"


@pytest.mark.parametrize("length", [30, 54, 60, 65])
def test_a_file_that_ends_within_its_masks_is_truncated(length):
    with pytest.raises(ImageDecodeError) as caught:
        images.decode(with_masks(ORDERS["RGBX"], 40, 32)[:length])
    assert caught.value.kind == "truncated"


def in_runs(indices, coding=1):
    """A grey BMP in RLE: each row as runs, one row as values as they are, and an end mark."""
    data = b""
    for number, row in enumerate(indices[::-1]):
        if number == 2:
            values = row if coding == 1 else row[::2] << 4 | row[1::2]
            data += bytes([0, len(row), *values]) + bytes(len(values) % 2)
        else:
            for value in row:
                data += bytes([1, value if coding == 1 else value << 4])
        data += b"\0\0"
    data += b"\0\1"
    num = 256 if coding == 1 else 16
    step = 1 if coding == 1 else 17
    palette = b"".join(bytes([value * step] * 3 + [0]) for value in range(num))
    height, width = indices.shape
    start = 54 + len(palette)
    info = struct.pack("<IiiHHI", 40, width, height, 1, 8 if coding == 1 else 4, coding)
    info += struct.pack("<IiiII", len(data), 0, 0, num, 0)
    return struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start) + info + palette + data


@pytest.mark.parametrize("coding", [1, 2])
def test_damaged_runs_are_decode_errors_and_whole_ones_are_read(coding):
    indices = RNG.integers(0, 256 if coding == 1 else 16, (24, 32)).astype(np.uint8)
    data = in_runs(indices, coding)
    expected = indices if coding == 1 else indices * 17
    np.testing.assert_array_equal(images.decode(data)[..., 0], expected)
    at = len(data) - 24 * 32
    for spoilt in (data[:at] + bytes(300) + data[at + 300 :], data[:at]):
        with pytest.raises(ImageDecodeError) as caught:
            images.decode(spoilt)
        assert caught.value.kind == "decode"
