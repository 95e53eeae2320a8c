"""Decoders that report damaged data, which OpenCV decodes silently: JPEG, packed TIFF and BMP.

OpenCV drops the warnings of libjpeg-turbo and the errors of libtiff, and returns what it has. The
same libraries behind simplejpeg and Pillow report them, and give the same pixels in the same time.
Formats whose data OpenCV checks itself are left to it: PNG has checksums.
"""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from mrkd.data.images import bmp, tiff
from mrkd.data.images.headers import Header
from mrkd.errors import ImageDecodeError

Pixels = NDArray[np.uint8]

# libjpeg's warnings about the data; the others are about what a header says.
_DAMAGED_JPEG = ("Corrupt JPEG data", "Premature end of JPEG file")
_LZW, _JPEG, _PACKBITS, _DEFLATE = 5, 7, 32773, (8, 32946)
_PLAIN = {(1, 8, tiff.GREY), (3, 8, tiff.RGB)}  # channels, bits and colour space
# Channels and bits to Pillow's modes of an image and of a file.
_MODES = {
    (1, 1): ("1", "1"),
    (1, 2): ("L", "L;2"),
    (1, 4): ("L", "L;4"),
    (1, 8): ("L", "L"),
    (2, 8): ("LA", "LA"),
    (3, 8): ("RGB", "RGB"),
    (4, 8): ("CMYK", "CMYK"),
}
# Colour space to simplejpeg's and to the transform in Adobe's mark, which a strip has not.
_JPEG_COLOURS = {tiff.GREY: ("GRAY", 0), tiff.RGB: ("RGB", 0), tiff.YCBCR: ("RGB", 1)}
_ADOBE = b"\xff\xee\0\x0eAdobe\0\x64" + bytes(4)
_MOST_RUNS = 64  # bytes that one byte of PackBits can give
_TAIL = bytes.fromhex("8d1f5ac3e6720b94")
_FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # EXIF orientation to OpenCV's code
_TRANSPOSED = (5, 6, 7, 8)
_END = b"\xff\xd9"


def decode(data: bytes, header: Header) -> Pixels | None:
    """The pixels of a file whose data is undamaged, as far as its format can tell.

    Args:
        data: the whole file.
        header: its header.

    Returns:
        uint8 `[H0, W0, 3]` RGB, upright, equal to OpenCV's; None: OpenCV decodes this kind.

    Raises:
        ImageDecodeError: the data is damaged (decode).
    """
    if header.format == "JPEG" and header.complete:
        return _jpeg(data, header.exif)
    if header.page:
        return _tiff(data, header.page)
    if header.format == "BMP" and (reason := bmp.damage_of_runs(data)):
        raise _damaged("BMP", reason)
    return None


def _damaged(name: str, reason: str) -> ImageDecodeError:
    return ImageDecodeError("decode", f"the {name} is damaged ({reason}): send it again")


def _jpeg(data: bytes, exif: int) -> Pixels | None:
    orientation = _orientation(data[exif : exif + 0xFFFF]) if exif else 1
    try:
        rgb = _without_warning(data)
    except ValueError as error:
        if str(error).startswith(_DAMAGED_JPEG):
            raise _damaged("JPEG", str(error)) from error
        return None
    if orientation in _TRANSPOSED:
        rgb = np.asarray(cv2.transpose(rgb), np.uint8)
    if orientation in _FLIPS:
        rgb = np.asarray(cv2.flip(rgb, _FLIPS[orientation]), np.uint8)
    return rgb if orientation else None


def _without_warning(data: bytes) -> Pixels:
    """The pixels of a JPEG; ValueError where libjpeg warns of anything."""
    try:
        return _decoded(data, "RGB")
    except ValueError:
        end = data.rindex(_END)
        unpadded = data[:end].rstrip(b"\0")  # some cameras fill up their buffers
        if len(unpadded) == end:
            raise
        return _decoded(unpadded + _END, "RGB")


def _decoded(jpeg: bytes, colours: str, min_factor: int = 1) -> Pixels:
    return np.asarray(simplejpeg.decode_jpeg(jpeg, colours, min_factor=min_factor), np.uint8)


def _orientation(exif: bytes) -> int:
    """The orientation in an EXIF block, 1 if it names none; 0: for OpenCV to find out."""
    try:
        page = next(tiff.directories(exif), None)
    except (struct.error, OverflowError, ValueError):
        return 0
    found = page.values.get(tiff.ORIENTATION) if page else None
    if found is None:
        return 1
    return int(found[0]) if len(found) == 1 and found.itemsize == 2 else 0


def _tiff(data: bytes, page: tiff.Directory) -> Pixels | None:
    packing, colours = page.first(tiff.COMPRESSION, 1), page.first(tiff.PHOTOMETRIC, 1)
    if packing == _JPEG:
        return _strips_of_jpeg(data, page)
    if page.first(tiff.FILL_ORDER, 1) != 1 or (colours == tiff.YCBCR and packing not in _DEFLATE):
        return None  # bits from right to left; fewer values than pixels
    channels, bits = page.first(tiff.CHANNELS, 1), page.first(tiff.BITS, 1)
    plain = (channels, bits, colours) in _PLAIN and _is_upright(page)
    values, in_rows = None, plain and tiff.TILES not in page.values
    if packing == _PACKBITS:
        values, plain = _unpacked_runs(data, page), in_rows
    elif packing == _LZW and bits <= 8:  # the errors of 16 bits OpenCV heeds itself
        values = _unpacked(data, page)
    elif packing in _DEFLATE and bits <= 8:
        values = _unpacked(data, page) if in_rows else None
        if values is None or not _as_summed(data, page, values):
            _check_deflated(data, page)
    if values is None or not plain:
        return None
    return _rgb(values.reshape(page.first(tiff.HEIGHT, 0), page.first(tiff.WIDTH, 0), channels))


def _is_upright(page: tiff.Directory) -> bool:
    return page.first(tiff.ORIENTATION, 1) == 1 and page.first(tiff.PLANAR, 1) == 1


def _rgb(values: Pixels) -> Pixels:
    """Grey or RGB `[H, W, 1 or 3]` as RGB that may be written."""
    if values.shape[2] == 1:
        return np.asarray(cv2.cvtColor(values, cv2.COLOR_GRAY2RGB), np.uint8)
    return values if values.flags.writeable else values.copy()


def _strips_of_jpeg(data: bytes, page: tiff.Directory) -> Pixels | None:
    """The pixels of a TIFF whose strips are JPEGs; of tiles and other colours they are checked."""
    coding = _JPEG_COLOURS.get(page.first(tiff.PHOTOMETRIC, 1))
    coding = coding if _is_upright(page) and tiff.TILES not in page.values else None
    colours, transform = coding or ("GRAY", 0)
    tables = page.values.get(tiff.JPEG_TABLES, np.zeros(0, np.uint8)).tobytes()[2:-2]
    start = b"\xff\xd8" + _ADOBE + bytes([transform]) + tables
    strips = []
    for at, size in page.pieces():
        # An eighth of the size has all codes and few pixels.
        try:
            strip = _decoded(start + data[at + 2 : at + size], colours, 1 if coding else 8)
        except ValueError as error:
            if str(error).startswith(_DAMAGED_JPEG):
                raise _damaged("TIFF", str(error)) from error
            return None
        strips.append(strip)
    height, width = page.first(tiff.HEIGHT, 0), page.first(tiff.WIDTH, 0)
    if not coding or {strip.shape[1] for strip in strips} != {width}:
        return None
    pixels = np.concatenate(strips)[:height]
    return _rgb(pixels) if len(pixels) == height else None


def _unpacked_runs(data: bytes, page: tiff.Directory) -> Pixels:
    """The values in PackBits, which must be as many as the image has."""
    num = page.num_unpacked()
    packed = b"".join(data[start : start + size] for start, size in page.pieces())
    if num > _MOST_RUNS * len(packed):
        raise _damaged("TIFF", "its data ends early")
    end = b"\x07" + _TAIL  # eight values as they are: they must be the last
    try:
        row = Image.frombytes("L", (num + 8, 1), packed + end, "packbits", ("L",))
    except ValueError as error:
        raise _damaged("TIFF", "its data ends early") from error
    values: Pixels = np.asarray(row, np.uint8)[0]
    if values[num:].tobytes() != _TAIL:
        raise _damaged("TIFF", "its data holds more than the image")
    return values[:num]


def _unpacked(data: bytes, page: tiff.Directory) -> Pixels | None:
    """The values in LZW or deflate, by a libtiff that stops at the first error.

    None: they are of a kind that Pillow does not have.
    """
    mode = _MODES.get((page.first(tiff.CHANNELS, 1), page.first(tiff.BITS, 1)))
    if mode is None:
        return None
    size = page.first(tiff.WIDTH, 0), page.first(tiff.HEIGHT, 0)
    try:
        image = Image.frombytes(mode[0], size, data, "libtiff", (mode[1], False, 0))
    except ValueError as error:
        raise _damaged("TIFF", "its data ends early, or has other codes") from error
    return np.asarray(image, np.bool_ if mode[0] == "1" else np.uint8)


def _check_deflated(data: bytes, page: tiff.Directory) -> None:
    """Checks the checksum of each strip or tile."""
    for start, size in page.pieces():
        try:
            zlib.decompress(data[start : start + size])
        except zlib.error as error:
            raise _damaged("TIFF", str(error)) from error


def _as_summed(data: bytes, page: tiff.Directory, pixels: Pixels) -> bool:
    """Whether pixels have the Adler-32 of the strips that they were in.

    libtiff reads that of a strip only where the strip holds no more than it should.
    """
    values = rows = pixels.reshape(len(pixels), -1)
    if page.first(tiff.PREDICTOR, 1) == 2:  # each value is stored as what it differs by
        channels = page.first(tiff.CHANNELS, 1)
        values = np.empty_like(rows)
        values[:, :channels] = rows[:, :channels]
        np.subtract(rows[:, channels:], rows[:, :-channels], out=values[:, channels:])
    height = page.first(tiff.STRIP_ROWS, len(rows))
    return all(
        zlib.adler32(values[number * height : (number + 1) * height].data)
        == int.from_bytes(data[start + size - 4 : start + size], "big")
        for number, (start, size) in enumerate(page.pieces())
    )
