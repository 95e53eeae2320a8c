"""Files in every form that mrkd.images takes or refuses, statistics, geometry and tensors."""

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from mrkd.data import images
from mrkd.data.images import DecodeLimits, Geometry, Normalisation
from mrkd.errors import ImageDecodeError
from tests.support.pictures import pillow, png, png_chunk, smooth, tiff

RGB = smooth()
GREY = RGB[..., 0].copy()
WIDE = np.random.default_rng(1).integers(0, 2**16, (30, 40, 3), dtype=np.uint16)
IMAGE = Image.fromarray(RGB)
PALETTE = IMAGE.quantize(16)


def with_alpha(picture, alpha=90):
    return np.dstack([picture, np.full(picture.shape[:2], alpha, picture.dtype)])


def grey(values):
    return np.repeat(values[..., None], 3, axis=2)


def refused(data, limits=None):
    with pytest.raises(ImageDecodeError) as caught:
        images.decode(data, limits)
    assert str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value.kind


EXACT = {
    "png": (pillow(RGB, "PNG"), RGB),
    "png grey": (pillow(GREY, "PNG"), grey(GREY)),
    "png grey and alpha": (pillow(with_alpha(GREY), "PNG"), grey(GREY)),
    "png alpha": (pillow(with_alpha(RGB, 0), "PNG"), RGB),
    "png palette": (pillow(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB"))),
    "png palette, one colour clear": (
        pillow(PALETTE, "PNG", transparency=3),
        np.asarray(PALETTE.convert("RGB")),
    ),
    "png 1 bit": (pillow(IMAGE.convert("1"), "PNG"), np.asarray(IMAGE.convert("1").convert("RGB"))),
    "png 16 bit": (cv2.imencode(".png", WIDE[..., ::-1])[1].tobytes(), WIDE),
    "png 16 bit grey": (cv2.imencode(".png", WIDE[..., 0])[1].tobytes(), grey(WIDE[..., 0])),
    "bmp": (pillow(RGB, "BMP"), RGB),
    "bmp palette": (pillow(PALETTE, "BMP"), np.asarray(PALETTE.convert("RGB"))),
    "webp": (pillow(RGB, "WEBP", lossless=True), RGB),
    "webp alpha": (pillow(with_alpha(RGB), "WEBP", lossless=True, exact=True), RGB),
    "tiff": (pillow(RGB, "TIFF"), RGB),
    "tiff lzw": (pillow(RGB, "TIFF", compression="tiff_lzw"), RGB),
    "tiff big": (tiff(RGB, bigtiff=True), RGB),
    "tiff big-endian": (tiff(RGB, byteorder=">"), RGB),
    "tiff tiles": (tiff(RGB, tile=(32, 32), photometric="rgb"), RGB),
    "tiff white is 0": (tiff(255 - GREY, photometric="miniswhite"), grey(GREY)),
    "tiff alpha": (tiff(with_alpha(RGB), photometric="rgb", extrasamples=["unassalpha"]), RGB),
    "tiff alpha, big-endian": (
        tiff(with_alpha(RGB), photometric="rgb", extrasamples=["unassalpha"], byteorder=">"),
        RGB,
    ),
    "tiff grey and alpha": (pillow(with_alpha(GREY), "TIFF"), grey(GREY)),
    "tiff 16 bit": (tiff(WIDE, photometric="rgb"), WIDE),
    "tiff 16 bit grey": (tiff(WIDE[..., 0], photometric="minisblack"), grey(WIDE[..., 0])),
    "tiff 16 bit alpha": (tiff(with_alpha(WIDE), photometric="rgb", extrasamples=[2]), WIDE),
    "tiff cmyk": (pillow(IMAGE.convert("CMYK"), "TIFF"), RGB),
    "tiff fax": (
        pillow(IMAGE.convert("1"), "TIFF", compression="group4"),
        np.asarray(IMAGE.convert("1").convert("RGB")),
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_lossless_files_decode_exactly(name):
    data, expected = EXACT[name]
    pixels = images.decode(data)
    assert pixels.dtype == np.uint8
    if expected.dtype == np.uint16:
        expected = np.rint(expected / 257).astype(np.uint8)
    np.testing.assert_array_equal(pixels, expected)


def test_sixteen_bits_are_scaled_by_257_and_rounded():
    every = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    pixels = images.decode(cv2.imencode(".png", every)[1].tobytes())
    np.testing.assert_array_equal(pixels, grey(np.rint(every / 257).astype(np.uint8)))


@pytest.mark.parametrize(
    "data",
    [
        pillow(RGB, "JPEG", quality=98, subsampling=0),
        pillow(RGB, "JPEG", quality=98, subsampling=0, progressive=True),
        pillow(RGB, "JPEG", quality=98, subsampling=0, restart_marker_rows=1),
        pillow(IMAGE.convert("CMYK"), "JPEG", quality=98, subsampling=0),
        pillow(RGB, "JPEG", quality=98, subsampling=0) + b"\0\xff\xd8 what a camera appends",
    ],
    ids=["baseline", "progressive", "restarts", "cmyk", "appendix"],
)
def test_jpegs_decode_closely(data):
    np.testing.assert_allclose(images.decode(data).astype(int), RGB.astype(int), atol=8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_are_turned_upright(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Each format takes its own options and leaves the others'.
    data = pillow(RGB, format, exif=exif, quality=100, subsampling=0, lossless=True)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert upright.shape == ((30, 40, 3) if orientation < 5 else (40, 30, 3))
    np.testing.assert_allclose(images.decode(data).astype(int), upright.astype(int), atol=2)


ANIMATION = {"save_all": True, "append_images": [IMAGE.rotate(90), IMAGE.rotate(180)]}
UNSUPPORTED = {
    "gif": pillow(RGB, "GIF"),
    "animated gif": pillow(RGB, "GIF", **ANIMATION),
    "animated png": pillow(RGB, "PNG", **ANIMATION),
    "animated webp": pillow(RGB, "WEBP", **ANIMATION),
    "tiff of two pages": tiff(np.stack([RGB, RGB]), photometric="rgb"),
    "tiff of floats": tiff(GREY.astype(np.float32)),
    "tiff of 32 bits": tiff(GREY.astype(np.uint32)),
    "tiff of signed values": tiff(GREY.astype(np.int16)),
    "tiff in lab": pillow(IMAGE.convert("LAB"), "TIFF"),
    "tiff of 16-bit planes": tiff(
        np.moveaxis(WIDE, 2, 0), photometric="rgb", planarconfig="separate"
    ),
    "tiff of 16 bits, white is 0": tiff(WIDE[..., 0], photometric="miniswhite"),
    "tiff of five channels": tiff(
        np.dstack([RGB, GREY, GREY]), photometric="rgb", planarconfig="contig"
    ),
    "jpeg 2000": pillow(RGB, "JPEG2000"),
    "avif": pillow(RGB, "AVIF"),
    "ppm": pillow(RGB, "PPM"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_would_decode_wrong_or_in_part_is_unsupported(name):
    assert refused(UNSUPPORTED[name]) == "unsupported"


def test_a_thumbnail_beside_the_picture_is_no_second_page():
    small = IMAGE.resize((8, 6))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    data = pillow(RGB, "TIFF", save_all=True, append_images=[small])
    np.testing.assert_array_equal(images.decode(data), RGB)


def test_an_empty_file_is_empty():
    assert refused(b"") == "empty"


@pytest.mark.parametrize("data", [b"line 1\nline 2\n" * 9, b"BM, a memo", b"\0" * 500, b"\xff\xd8"])
def test_a_file_that_is_no_image_is_a_decode_error(data):
    assert refused(data) == "decode"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_a_file_cut_anywhere_is_truncated(format):
    data = pillow(RGB, format)
    lengths = {len(data) - 1, len(data) // 2, len(data) // 8, 40}
    assert {refused(data[:length]) for length in lengths} == {"truncated"}


def test_a_progressive_jpeg_cut_between_scans_is_truncated():
    data = pillow(RGB, "JPEG", progressive=True)
    assert refused(data[: data.rindex(b"\xff\xda")]) == "truncated"


def test_a_truncated_jpeg_may_be_accepted():
    data = pillow(smooth(300, 400), "JPEG", quality=95)
    whole = images.decode(data)
    part = images.decode(data[: len(data) // 2], DecodeLimits(truncated="accept"))
    assert part.shape == whole.shape
    np.testing.assert_array_equal(part[:100], whole[:100])
    assert len(np.unique(part[-20:])) < 10
    cut_png = pillow(RGB, "PNG")[:-20]
    assert refused(cut_png, DecodeLimits(truncated="accept")) == "truncated"


def test_one_changed_byte_of_a_png_is_found():
    data = bytearray(pillow(RGB, "PNG"))
    data[len(data) // 2] ^= 1
    assert refused(bytes(data)) == "decode"


def test_a_png_without_rows_or_size_is_a_decode_error():
    assert refused(b"\x89PNG\r\n\x1a\n" + png_chunk(b"IEND", b"")) == "decode"
    assert refused(png(0, 5, b"")) == "decode"


def test_limits_hold_before_anything_is_decoded():
    bomb = png(60_000, 60_000, bytes(1000))
    assert refused(bomb) == "too_large"
    assert refused(png(1, 1_000_001, bytes(1000))) == "too_large"
    data = pillow(RGB, "PNG")
    assert images.decode(data, DecodeLimits(max_pixels=1200)).shape == (30, 40, 3)
    assert refused(data, DecodeLimits(max_pixels=1199)) == "too_large"
    assert refused(data, DecodeLimits(max_bytes=len(data) - 1)) == "too_large"


@pytest.mark.parametrize("name", EXACT)
def test_the_header_tells_the_size_without_decoding(name):
    header = images.read_header(EXACT[name][0])
    assert (header.height, header.width, header.complete) == (30, 40, True)
    assert name.lower().startswith(header.format.lower())


def test_statistics_follow_their_formulas():
    flat = images.statistics(np.full((50, 20, 3), 51, np.uint8))
    assert flat.brightness == pytest.approx(0.2)
    assert (flat.contrast, flat.sharpness) == (0, 0)
    halves = np.zeros((256, 256, 3), np.uint8)
    halves[:, 128:] = 255
    found = images.statistics(halves)
    assert (found.brightness, found.contrast) == (0.5, 0.5)
    # The Laplacian is +1 in one column, -1 in the next, 0 elsewhere: its variance is 2 / 256.
    assert found.sharpness == pytest.approx(2 / 256)


def test_blur_lowers_sharpness_and_nothing_else_much():
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    blurred = np.asarray(cv2.blur(picture, (5, 5)), np.uint8)
    sharp, soft = images.statistics(picture), images.statistics(blurred)
    assert soft.sharpness < sharp.sharpness / 10
    assert soft.brightness == pytest.approx(sharp.brightness, abs=0.01)


def test_an_axis_that_shrinks_takes_means_and_one_that_grows_is_interpolated():
    picture = np.zeros((64, 8, 3), np.uint8)
    picture[::2] = 200  # rows to be merged by twos: their mean is 100, a sampled row is not
    pixels, geometry = images.resize(picture, 32, "stretch")
    assert pixels.shape == (32, 32, 3)
    assert (pixels == 100).all()
    assert geometry == Geometry((64, 8), (32, 32), "stretch")
    same, _ = images.resize(pixels, 32, "stretch")
    np.testing.assert_array_equal(same, pixels)


def test_a_letterbox_keeps_the_shape_between_grey_borders():
    pixels, geometry = images.resize(np.full((50, 100, 3), 255, np.uint8), 64, "letterbox")
    assert geometry.valid == (0, 16, 64, 32)
    assert (pixels[16:48] == 255).all()
    assert (pixels[:16] == 127).all()
    assert (pixels[48:] == 127).all()
    assert geometry.pixel_area == pytest.approx((50 * 100) / (64 * 32))


@pytest.mark.parametrize(
    ("policy", "rectangle", "original"),
    [
        ("stretch", (0, 0, 64, 64), (0, 0, 100, 50)),
        ("stretch", (32, 32, 1, 1), (50, 25, 2, 1)),
        ("letterbox", (0, 16, 64, 32), (0, 0, 100, 50)),
        ("letterbox", (0, 0, 64, 64), (0, 0, 100, 50)),
        ("letterbox", (10, 0, 5, 3), (15, 0, 9, 1)),
        ("letterbox", (63, 47, 1, 1), (98, 48, 2, 2)),
    ],
)
def test_rectangles_go_back_to_the_original(policy, rectangle, original):
    assert Geometry((50, 100), (64, 64), policy).to_original(*rectangle) == original


@pytest.mark.parametrize("policy", ["stretch", "letterbox"])
def test_a_mask_lies_where_its_defect_lies(policy):
    picture, gt_mask = np.zeros((60, 120, 3), np.uint8), np.zeros((60, 120), bool)
    picture[20:40, 30:60], gt_mask[20:40, 30:60] = 255, True
    pixels, geometry = images.resize(picture, 64, policy)
    resized = images.resize_mask(gt_mask, geometry)
    x, y, w, h = geometry.valid
    inside = np.zeros((64, 64), bool)
    inside[y : y + h, x : x + w] = pixels[y : y + h, x : x + w, 0] > 127
    np.testing.assert_array_equal(resized, inside)
    with pytest.raises(ValueError, match="its image"):
        images.resize_mask(gt_mask[1:], geometry)


def test_a_tensor_is_normalised_per_colour():
    pixels = torch.tensor([[[[0, 100, 255]]]], dtype=torch.uint8)
    normalisation = Normalisation((0.0, 100.0, 127.5), (1.0, 2.0, 127.5))
    tensor = images.to_tensor(pixels, normalisation)
    assert tensor.shape == (1, 3, 1, 1)
    assert tensor.dtype == torch.float32
    assert tensor.flatten().tolist() == [0, 0, 1]
    assert pixels.flatten().tolist() == [0, 100, 255]


def test_a_mask_is_cut_at_half_of_its_own_brightest_pixel():
    values = np.array([[0, 127, 128, 255]], np.uint8)
    soft = np.repeat(values[..., None], 3, axis=2)
    assert images.to_mask(soft).tolist() == [[False, False, True, True]]
    assert images.to_mask((soft > 200).astype(np.uint8)).tolist() == [[False, False, False, True]]
    assert not images.to_mask(np.zeros_like(soft)).any()


def drawn(*classes, side=32):
    """A mask with a disc of each class's grey."""
    grey = np.zeros((side, side * len(classes)), np.uint8)
    for n, value in enumerate(classes):
        cv2.circle(grey, (side * n + side // 2, side // 2), side // 3, int(value), -1)
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.mark.parametrize(
    "classes", [(1, 3), (1, 2, 9), (3, 31), (64, 255), (85, 170, 255), (40, 90)]
)
def test_no_class_of_a_mask_is_lost_beside_a_brighter_one(classes):
    mask = drawn(*classes)
    assert (images.to_gt_mask(mask) == (mask[..., 0] > 0)).all()


def test_a_thin_line_of_a_class_number_is_not_lost():
    mask = drawn(9)
    mask[0] = 1
    assert images.to_gt_mask(mask)[0].all()


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_a_mask_stored_as_jpeg_is_cut_at_half_as_before(quality):
    mask = drawn(255, 255)
    stored = images.decode(
        cv2.imencode(".jpg", mask, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    )
    assert (images.to_gt_mask(stored) == (stored.max(axis=2) > stored.max() / 2)).all()


@pytest.mark.parametrize("rule", [cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC])
@pytest.mark.parametrize("side", [20, 77])
def test_soft_edges_of_a_mask_are_cut_in_the_middle_as_before(rule, side):
    soft = cv2.resize(drawn(255), (side, side), interpolation=rule)
    assert (images.to_gt_mask(soft) == (soft.max(axis=2) > soft.max() / 2)).all()
