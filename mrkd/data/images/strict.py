"""Decoders that report damaged data, which OpenCV decodes without a word: JPEG and packed TIFF.

OpenCV drops the warnings of libjpeg-turbo and the errors of libtiff, and returns what it has. The
same libraries behind simplejpeg and Pillow report them, and give the same pixels in the same time.
Formats whose data OpenCV checks itself are left to it: PNG has checksums.
"""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL.TiffImagePlugin import TiffImageFile

from mrkd.data.images import tiff
from mrkd.data.images.headers import Header
from mrkd.errors import ImageDecodeError

Pixels = NDArray[np.uint8]

# libjpeg's warnings about the data; the others are about what a header says.
_DAMAGED_JPEG = ("Corrupt JPEG data", "Premature end of JPEG file")
_LZW, _JPEG, _PACKBITS, _DEFLATE = 5, 7, 32773, (8, 32946)
_PLAIN = {(1, 1), (3, 2)}  # channels and colour space of grey and RGB
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
        rgb = cv2.transpose(rgb)
    if orientation in _FLIPS:
        rgb = cv2.flip(rgb, _FLIPS[orientation])
    return np.asarray(rgb, np.uint8) if orientation else None


def _without_warning(data: bytes) -> Pixels:
    """The pixels of a JPEG; ValueError where libjpeg warns of anything."""
    try:
        return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        end = data.rindex(_END)
        unpadded = data[:end].rstrip(b"\0")  # some cameras fill up their buffers
        if len(unpadded) == end:
            raise
        return simplejpeg.decode_jpeg(unpadded + _END, "RGB")


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
    packing, bits = page.first(tiff.COMPRESSION, 1), page.first(tiff.BITS, 1)
    if page.first(tiff.FILL_ORDER, 1) != 1 and packing != _LZW:  # bits from right to left
        return None
    if packing == _JPEG:
        _check_jpegs(data, page)
    elif packing == _PACKBITS and page.first(tiff.PHOTOMETRIC, 1) != tiff.YCBCR:
        _check_runs(data, page)
    elif packing in (_LZW, *_DEFLATE) and bits <= 8:  # OpenCV heeds the errors of 16 bits itself
        if bits == 8 and _is_plain(page):
            pixels = _unpacked(data, page, packing in _DEFLATE)
            grey = pixels is not None and pixels.ndim == 2
            return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)) if grey else pixels
        if packing in _DEFLATE:
            _check_deflated(data, page)
        elif page.first(tiff.PHOTOMETRIC, 1) != tiff.YCBCR:
            _unpacked(data, page)
    return None


def _is_plain(page: tiff.Directory) -> bool:
    """Whether the rows are those of an upright image in grey or RGB, one after the other."""
    tags = (tiff.ORIENTATION, tiff.PLANAR)
    simple = all(page.first(tag, 1) == 1 for tag in tags) and tiff.TILES not in page.values
    return simple and (page.first(tiff.CHANNELS, 1), page.first(tiff.PHOTOMETRIC, 1)) in _PLAIN


def _check_jpegs(data: bytes, page: tiff.Directory) -> None:
    """Checks each strip or tile that is a JPEG of its own."""
    tables = page.values.get(tiff.JPEG_TABLES, np.zeros(0, np.uint8)).tobytes()[:-2]
    for start, size in page.pieces():
        jpeg = data[start : start + size]
        try:  # an eighth of the size, in grey: all codes are read, few pixels computed
            simplejpeg.decode_jpeg(tables + jpeg[2 if tables else 0 :], "GRAY", min_factor=8)
        except ValueError as error:
            if str(error).startswith(_DAMAGED_JPEG):
                raise _damaged("TIFF", str(error)) from error


def _check_runs(data: bytes, page: tiff.Directory) -> None:
    """Checks that the PackBits runs of each strip or tile give all its bytes, and no more."""
    for (start, size), wanted in zip(page.pieces(), page.piece_bytes(), strict=False):
        place, end, found = start, start + size, 0
        while place < end and found < wanted:
            head = data[place]
            if head < 128:
                place += head + 2
                found += head + 1
            else:
                place += 2 if head > 128 else 1
                found += 257 - head if head > 128 else 0
        if found != wanted or not end - 1 <= place <= end:  # a byte may fill up an even length
            raise _damaged("TIFF", f"{found} bytes in PackBits, {wanted} expected")


def _check_deflated(data: bytes, page: tiff.Directory) -> None:
    """Checks the checksum of each strip or tile."""
    for start, size in page.pieces():
        try:
            zlib.decompress(data[start : start + size])
        except zlib.error as error:
            raise _damaged("TIFF", str(error)) from error


def _unpacked(data: bytes, page: tiff.Directory, checksums: bool = False) -> Pixels | None:
    """The values in a TIFF in LZW or deflate, by a libtiff that stops at the first error.

    Args:
        data: the whole file.
        page: its directory.
        checksums: those of deflate are compared as well; libtiff reads one only where the strip
            holds no more than it should.

    Returns:
        uint8 `[H0, W0]` or `[H0, W0, C]`; None: Pillow does not have this kind.
    """
    image = None
    try:
        # Not Image.open: its limit of pixels is another, and the camera's own tags may be odd.
        with TiffImageFile(io.BytesIO(page.alone(data))) as image:
            image.load()
            pixels = np.array(image)  # a copy, that may be written
    except OSError as error:
        if image is not None:
            raise _damaged("TIFF", "its data ends early, or has other codes") from error
        return None
    except (SyntaxError, KeyError, ValueError):  # of a kind that Pillow does not have
        return None
    if checksums and not _as_summed(data, page, pixels):
        _check_deflated(data, page)
    return pixels


def _as_summed(data: bytes, page: tiff.Directory, pixels: Pixels) -> bool:
    """Whether pixels have the Adler-32 of the strips that they were in."""
    values = rows = pixels.reshape(len(pixels), -1)
    if page.first(tiff.PREDICTOR, 1) == 2:  # each value is stored as what it differs by
        channels = page.first(tiff.CHANNELS, 1)
        values = rows.copy()
        np.subtract(rows[:, channels:], rows[:, :-channels], out=values[:, channels:])
    height = page.first(tiff.STRIP_ROWS, len(rows))
    return all(
        zlib.adler32(values[number * height : (number + 1) * height])
        == int.from_bytes(data[start + size - 4 : start + size], "big")
        for number, (start, size) in enumerate(page.pieces())
    )
