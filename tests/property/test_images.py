"""Hostile bytes and odd shapes: mrkd.images decodes or raises ImageDecodeError, never else."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mrkd.data import images
from mrkd.data.images import DecodeLimits, Geometry
from mrkd.errors import ImageDecodeError
from mrkd.storage.schema import ERROR_KINDS
from tests.support.pictures import pillow, png, smooth, tiff

RGB = smooth(20, 24)
EXIF = Image.Exif()
EXIF[0x0112] = 6
FILES = [
    pillow(RGB, "PNG"),
    pillow(RGB, "PNG", exif=EXIF),
    pillow(RGB, "JPEG"),
    pillow(RGB, "JPEG", progressive=True, exif=EXIF),
    pillow(RGB, "BMP"),
    pillow(RGB, "WEBP"),
    pillow(RGB, "TIFF", compression="tiff_lzw"),
    tiff(RGB, bigtiff=True, tile=(32, 32)),
]
MAGICS = [b"", *(data[:size] for data in FILES for size in (4, 12, 30))]
LIMITS = st.builds(
    DecodeLimits, max_pixels=st.just(10**6), truncated=st.sampled_from(["error", "accept"])
)


def outcome(data, limits=None):
    """The pixels, or the error that a row would hold; whatever else is raised fails the test."""
    try:
        return images.decode(data, limits)
    except ImageDecodeError as error:
        return error


def decodes_or_says_why(data, limits):
    found = outcome(data, limits)
    if isinstance(found, ImageDecodeError):
        assert found.kind in ERROR_KINDS
        assert "\n" not in str(found)
        return
    header = images.read_header(data)
    assert found.dtype == np.uint8
    assert found.shape[2] == 3
    assert sorted(found.shape[:2]) == sorted((header.height, header.width))
    assert header.height * header.width <= limits.max_pixels


@given(st.sampled_from(MAGICS), st.binary(max_size=300), LIMITS)
def test_arbitrary_bytes_decode_or_say_why(magic, data, limits):
    decodes_or_says_why(magic + data, limits)


@settings(max_examples=200)
@given(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 8), st.binary(max_size=8)), max_size=4),
    st.integers(0, 2000),
    LIMITS,
)
def test_spoilt_files_decode_or_say_why(data, edits, cut, limits):
    for place, removed, inserted in edits:
        place %= len(data)
        data = data[:place] + inserted + data[place + removed :]
    decodes_or_says_why(data[: -(cut % len(data)) or None], limits)


@given(st.integers(0, 40), st.integers(0, 40), st.binary(max_size=500))
def test_a_png_with_right_checksums_and_wrong_rows_decodes_or_says_why(height, width, rows):
    decodes_or_says_why(png(height, width, rows), DecodeLimits())


@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True))
def test_no_cut_file_passes_for_a_whole_one(data, share):
    found = outcome(data[: int(len(data) * share)])
    if isinstance(found, ImageDecodeError):
        assert found.kind in {"truncated", "empty", "decode"}
    else:  # what was cut held no picture: padding, or a directory that the picture does not need
        np.testing.assert_array_equal(found, images.decode(data))


SIDES = st.integers(1, 300)
POLICIES = st.sampled_from(["stretch", "letterbox"])


@given(SIDES, SIDES, st.integers(1, 80), POLICIES)
def test_every_picture_fits_the_square_and_its_mask_the_picture(height, width, size, policy):
    picture = np.full((height, width, 3), 255, np.uint8)
    pixels, geometry = images.resize(picture, size, policy)
    assert pixels.shape == (size, size, 3)
    x, y, w, h = geometry.valid
    assert min(x, y) >= 0
    assert min(w, h) >= 1
    assert max(x + w, y + h) <= size
    inside = images.resize_mask(np.ones((height, width), bool), geometry)
    np.testing.assert_array_equal(inside, (pixels == 255).all(axis=2))
    if policy == "stretch":
        assert inside.all()
    elif min(height, width) * size >= max(height, width):
        assert abs(h * width - w * height) <= max(height, width)  # the shape, to half a pixel


@settings(max_examples=50)
@given(SIDES, SIDES, st.integers(1, 80), POLICIES, st.data())
def test_rectangles_of_the_square_cover_pixels_of_the_original(height, width, size, policy, data):
    geometry = Geometry((height, width), (size, size), policy)
    x0, y0 = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    w0, h0 = data.draw(st.integers(1, size - x0)), data.draw(st.integers(1, size - y0))
    x, y, w, h = geometry.to_original(x0, y0, w0, h0)
    assert 0 <= x < x + w <= width
    assert 0 <= y < y + h <= height
    left, top, valid_w, valid_h = geometry.valid
    assert geometry.to_original(left, top, valid_w, valid_h) == (0, 0, width, height)
    if x0 >= left and x0 + w0 <= left + valid_w:  # nothing of the rectangle is lost
        assert x <= (x0 - left) * width / valid_w
        assert x + w >= (x0 + w0 - left) * width / valid_w - 1e-9
    assert top >= 0
    assert valid_h >= 1
