"""Files that are damaged inside are errors of kind decode; undamaged ones decode as OpenCV does."""

import io
import random
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from mrkd.data import images
from mrkd.data.images import DecodeLimits, strict
from mrkd.errors import ImageDecodeError
from tests.support.pictures import pillow, png_chunk, smooth, tiff

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 40, (240, 320, 3), dtype=np.uint8)
RGB = (smooth(240, 320) // 2 + NOISE).astype(np.uint8)  # rough enough for codes of every length
IMAGE = Image.fromarray(RGB)
GREY = IMAGE.convert("L")
CV_SAMPLINGS = {
    name: getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}")
    for name in ("411", "420", "422", "440", "444")
}


def coded(suffix, *flags):
    return cv2.imencode(suffix, RGB[..., ::-1], flags)[1].tobytes()


def by_opencv(data):
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def error_of(data, limits=None):
    with pytest.raises(ImageDecodeError) as caught:
        images.decode(data, limits)
    return caught.value


JPEGS = {
    "baseline": pillow(IMAGE, "JPEG"),
    "4:4:4": pillow(IMAGE, "JPEG", subsampling=0, quality=92),
    "optimised": pillow(IMAGE, "JPEG", optimize=True),
    "progressive": pillow(IMAGE, "JPEG", progressive=True),
    "restarts": pillow(IMAGE, "JPEG", restart_marker_blocks=7),
    "grey": pillow(GREY, "JPEG"),
    "cmyk": pillow(IMAGE.convert("CMYK"), "JPEG"),
    "rgb": pillow(IMAGE, "JPEG", keep_rgb=True),
    **{
        f"OpenCV's {name}": coded(".jpg", cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor)
        for name, factor in CV_SAMPLINGS.items()
    },
}
TIFFS = {
    **{
        f"{name} {mode}": pillow(IMAGE.convert(mode), "TIFF", compression=name)
        for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits")
        for mode in ("RGB", "L", "1", "P", "RGBA", "LA", "CMYK")
    },
    "jpeg": pillow(IMAGE, "TIFF", compression="jpeg"),
    "jpeg, grey": pillow(GREY, "TIFF", compression="jpeg"),
    "lzw, predictor": coded(".tif", cv2.IMWRITE_TIFF_COMPRESSION, 5),
    "deflate, predictor": coded(".tif", cv2.IMWRITE_TIFF_COMPRESSION, 8),
    "packbits by OpenCV": coded(".tif", cv2.IMWRITE_TIFF_COMPRESSION, 32773),
    "deflate, tiles, predictor": tiff(
        RGB, tile=(64, 64), compression="zlib", predictor=True, photometric="rgb"
    ),
    "deflate, planes": tiff(
        np.moveaxis(RGB, 2, 0).copy(),
        photometric="rgb",
        planarconfig="separate",
        compression="zlib",
    ),
    "deflate, one strip, big-endian": tiff(
        RGB, photometric="rgb", compression="zlib", byteorder=">", rowsperstrip=240
    ),
    "deflate, BigTIFF": tiff(RGB, photometric="rgb", compression="zlib", bigtiff=True),
}
LOSSLESS = {name: data for name, data in TIFFS.items() if "deflate" in name}


def cut_with_end_mark(data, at):
    return data[:at] + b"\xff\xd9"


def bytes_missing(data, at):
    return data[:at] + data[at + 1000 :]


def zero_block(data, at):
    return data[:at] + bytes(1500) + data[at + 1500 :]


@pytest.mark.parametrize("spoil", [cut_with_end_mark, bytes_missing, zero_block])
@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_damaged_anywhere_before_its_end_mark_is_a_decode_error(name, spoil):
    data = JPEGS[name]
    start = data.index(b"\xff\xda") + 100
    rng = random.Random(name)
    for _ in range(10):
        error = error_of(spoil(data, rng.randrange(start, len(data) - 1600)))
        assert error.kind == "decode"
        assert "the JPEG is damaged" in error.message


@pytest.mark.parametrize("name", TIFFS)
def test_a_packed_tiff_with_a_block_of_zeros_is_a_decode_error(name):
    data, rng = TIFFS[name], random.Random(name)
    size = min(600, len(data) // 8)
    for _ in range(10):
        # Not the headers and tables, which are at either end.
        at = rng.randrange(len(data) // 4, len(data) // 2)
        error = error_of(data[:at] + bytes(size) + data[at + size :])
        assert error.kind == "decode"
        assert "damaged" in error.message


@pytest.mark.parametrize("name", LOSSLESS)
def test_one_changed_byte_of_a_deflated_tiff_is_a_decode_error(name):
    data, rng = bytearray(LOSSLESS[name]), random.Random(name)
    for _ in range(10):
        at = rng.randrange(len(data) // 4, len(data) // 2)
        data[at] ^= 0x10
        assert error_of(bytes(data)).kind == "decode"
        data[at] ^= 0x10


@pytest.mark.parametrize("compression", [5, 8, 32773])
def test_a_packed_tiff_of_16_bits_with_a_block_of_zeros_is_a_decode_error(compression):
    wide = RGB.astype(np.uint16) * 257
    data = cv2.imencode(".tif", wide, [cv2.IMWRITE_TIFF_COMPRESSION, compression])[1].tobytes()
    at = len(data) // 3
    assert error_of(data[:at] + bytes(600) + data[at + 600 :]).kind == "decode"


@pytest.mark.parametrize("name", [*JPEGS, *TIFFS])
def test_an_undamaged_file_has_the_pixels_that_opencv_gives_it(name):
    data = (JPEGS | TIFFS)[name]
    if "RGBA" in name or "LA" in name:
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(image)[..., : 3 if "RGBA" in name else 1]
        expected = np.broadcast_to(expected, (240, 320, 3))
    else:
        expected = by_opencv(data)
    pixels = images.decode(data)
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.flags.writeable


def test_the_common_kinds_are_decoded_once():
    for data in (*JPEGS.values(), TIFFS["tiff_lzw RGB"], TIFFS["tiff_adobe_deflate L"]):
        assert strict.decode(data, images.read_header(data)) is not None


def exif(orientation=6, order=b"II", block=b""):
    found = Image.Exif()
    found.endian = "<" if order == b"II" else ">"
    found[0x0112] = orientation
    return block or found.tobytes()


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("order", [b"II", b"MM"])
def test_a_jpeg_is_turned_as_opencv_turns_it(orientation, order):
    data = pillow(IMAGE, "JPEG", exif=exif(orientation, order))
    np.testing.assert_array_equal(images.decode(data), by_opencv(data))


@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
        b"Exif\0\0" + b"\xff" * 60,
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x04\0\0\0\x01\0\0\0\x06\0\0\0\0",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\0\0\0\0\x06\0\0\0\0\0\0\0",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x01\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
    ],
    ids=["empty", "cut", "nonsense", "a long", "no value", "a byte"],
)
def test_odd_exif_turns_a_jpeg_as_opencv_turns_it(block):
    data = pillow(IMAGE, "JPEG", exif=block)
    np.testing.assert_array_equal(images.decode(data), by_opencv(data))


def test_what_cameras_add_to_a_jpeg_is_no_damage():
    plain = JPEGS["baseline"]
    end, scan = plain.rindex(b"\xff\xd9"), plain.index(b"\xff\xda")
    thumbnail = pillow(IMAGE.resize((32, 24)), "JPEG")
    several = pillow(IMAGE, "MPO", save_all=True, append_images=[IMAGE.resize((64, 48))])
    for data in (
        plain + b"\0\xff\xd8 appended",
        plain + thumbnail,
        plain[:end] + b"\xff" * 9 + plain[end:],
        plain[:end] + bytes(40) + plain[end:],
        plain[:scan] + b"\xff\xff" + plain[scan:],
        plain[:2] + b"\xff\xe5" + len(thumbnail + b"  ").to_bytes(2, "big") + thumbnail + plain[2:],
        several,
    ):
        np.testing.assert_array_equal(images.decode(data), by_opencv(data))


def test_a_jpeg_whose_end_was_never_written_is_a_decode_error_even_where_cut_ones_are_accepted():
    data = JPEGS["baseline"]
    accept = DecodeLimits(truncated="accept")
    assert images.decode(data[: len(data) // 2], accept).shape == RGB.shape
    unwritten = data[: len(data) // 2] + bytes(len(data) // 2)
    for limits in (None, accept):
        assert error_of(unwritten, limits).kind == "decode"
        assert "ends in zeros" in error_of(unwritten, limits).message


def test_an_end_mark_after_a_cut_is_damage_even_where_cut_files_are_accepted():
    data = cut_with_end_mark(JPEGS["baseline"], 3000)
    assert error_of(data, DecodeLimits(truncated="accept")).kind == "decode"


def test_a_png_with_a_wrong_checksum_of_its_pixels_is_a_decode_error():
    rows = zlib.compress(b"".join(b"\0" + RGB[y].tobytes() for y in range(240)))
    plain = pillow(IMAGE, "PNG")
    for spoilt in (rows[:-1] + bytes([rows[-1] ^ 1]), rows[:-4], rows[: len(rows) // 2]):
        data = plain[:33] + png_chunk(b"IDAT", spoilt) + png_chunk(b"IEND", b"")
        assert error_of(data).kind == "decode"


def test_a_tiff_in_a_compression_that_is_not_decoded_is_unsupported_by_name():
    data = bytearray(tiff(RGB, photometric="rgb"))
    at = data.index(b"\x03\x01\x03\0\x01\0\0\0")  # the tag of the compression, a short
    data[at + 8 : at + 10] = (50000).to_bytes(2, "little")
    error = error_of(bytes(data))
    assert (error.kind, "ZSTD" in error.message) == ("unsupported", True)
