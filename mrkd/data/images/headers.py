"""Headers of image files, read before any decoder sees them.

A few bytes tell whether the file is worth decoding: its size in pixels, whether it is all there,
and whether OpenCV decodes its kind right. Only the five formats below reach a decoder at all.

Sources: ITU-T T.81 (JPEG), PNG third edition, TIFF 6.0, RFC 9649 (WebP), and the BMP headers of
Windows 3 and OS/2.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mrkd.data.images import bmp, tiff
from mrkd.errors import ImageDecodeError


@dataclass(frozen=True)
class Header:
    """Format, size before EXIF rotation, and state of an image file.

    Attributes:
        format: PNG, JPEG, TIFF, BMP or WebP.
        height: height in pixels.
        width: width in pixels.
        complete: the file is as long as it says.
        unsupported: property that is not decoded; empty: none.
        alpha_offset: offset of a TIFF's mark that its colours are without their alpha; 0: none.
        exif: offset of a JPEG's EXIF block; 0: none.
        page: the directory of a TIFF; None: another format.
    """

    format: str
    height: int
    width: int
    complete: bool = True
    unsupported: str = ""
    alpha_offset: int = 0
    exif: int = 0
    page: tiff.Directory | None = None


def read_header(data: bytes) -> Header:
    """The header of an image file.

    Raises:
        ImageDecodeError: it is not an image or a damaged one (decode), of another format
            (unsupported), or ends within its header (truncated).
    """
    for magic, read in _FORMATS:
        if magic.match(data):
            try:
                return read(data)
            except (struct.error, IndexError, OverflowError, ValueError) as error:
                message = "the file ends within its header, or that is damaged: send it again"
                raise ImageDecodeError("truncated", message) from error
    for magic, name in _OTHER_FORMATS:
        if magic.match(data):
            message = f"{name} is not decoded: convert the file to PNG, JPEG or TIFF"
            raise ImageDecodeError("unsupported", message)
    message = f"no image: it begins with {data[:8]!r}; check what wrote this file"
    raise ImageDecodeError("decode", message)


def _number(kind: str, data: bytes, place: int) -> int:
    return int(struct.unpack_from(kind, data, place)[0])


def _no_image(name: str, complete: bool) -> ImageDecodeError:
    if complete:
        return ImageDecodeError("decode", f"a {name} without an image: write it again")
    return ImageDecodeError("truncated", f"a {name} that ends before its image: send it again")


# What follows 0xFF is not a marker where it is a stuffed zero, another fill byte or a restart.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = {0x01, 0xD8}  # markers without a segment
_ZEROS = bytes(16)  # more than the codes of any image
_JPEG_APP1, _JPEG_END = 0xE1, 0xD9


def _jpeg(data: bytes) -> Header:
    place, frame, complete, exif = 2, None, False, 0
    while found := _JPEG_MARKER.search(data, place):
        marker, place = found[1][0], found.end()
        if marker == _JPEG_END:
            complete = True
            break
        if marker in _JPEG_BARE:
            continue
        if place + 2 > len(data):
            break
        if marker in _JPEG_FRAMES and frame is None:
            frame = struct.unpack_from(">BHHB", data, place + 2)
        if marker == _JPEG_APP1 and not exif and data.startswith(b"Exif\0\0", place + 2):
            exif = place + 8
        place += max(_number(">H", data, place), 2)
    if frame is None:
        raise _no_image("JPEG", complete)
    if not complete and data.endswith(_ZEROS):
        message = "the JPEG ends in zeros: it was not written to its end; send it again"
        raise ImageDecodeError("decode", message)
    bits, height, width, channels = frame
    unusual = bits != 8 or channels not in (1, 3, 4)
    unsupported = f"a JPEG with {channels} channels of {bits} bits" if unusual else ""
    return Header("JPEG", height, width, complete, unsupported, exif=exif)


def _png(data: bytes) -> Header:
    size, frames, complete = None, 1, False
    for name, start in _png_chunks(data):
        if name == b"IHDR":
            size = struct.unpack_from(">II", data, start)
        elif name == b"acTL":
            frames = _number(">I", data, start)
        complete = name == b"IEND"
        if complete:
            break
    if size is None:
        raise _no_image("PNG", complete)
    unsupported = f"an animation of {frames} frames" if frames > 1 else ""
    return Header("PNG", size[1], size[0], complete, unsupported)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Name and start of the content of each chunk that is all there."""
    place, view = 8, memoryview(data)
    while place + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            return
        # An upper-case first letter marks what the image needs; the rest may be as it likes.
        if name[:1].isupper() and zlib.crc32(view[place + 4 : end]) != _number(">I", data, end):
            message = f"the PNG's part {name.decode('latin-1')!r} is damaged: send the file again"
            raise ImageDecodeError("decode", message)
        yield name, place + 8
        place = end + 4


def _bmp(data: bytes) -> Header:
    start, header_size = struct.unpack_from("<II", data, 10)
    coding = 0
    if header_size == 12:  # OS/2
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits, coding = struct.unpack_from("<iiHHI", data, 18)
    height = abs(height)  # negative: the rows come from the top
    # Only plain rows have a known size: each fills whole words of 32 bits.
    row_bytes = (width * bits + 31) // 32 * 4 if coding in (0, 3, 6) else 0
    unsupported = "a BMP around a JPEG or PNG" if coding in (4, 5) else bmp.unsupported(data)
    return Header("BMP", height, width, start + row_bytes * height <= len(data), unsupported)


def _webp(data: bytes) -> Header:
    complete = _number("<I", data, 4) + 8 <= len(data)
    kind = data[12:16]
    if kind == b"VP8X":
        flags, width, height = data[20], _number("<I", data, 24), _number("<I", data, 26) >> 8
        unsupported = "an animation" if flags & 2 else ""
        return Header("WebP", height + 1, (width & 0xFFFFFF) + 1, complete, unsupported)
    if kind == b"VP8L":
        packed = _number("<I", data, 21)
        return Header("WebP", (packed >> 14 & 0x3FFF) + 1, (packed & 0x3FFF) + 1, complete)
    width, height = struct.unpack_from("<HH", data, 26)
    return Header("WebP", height & 0x3FFF, width & 0x3FFF, complete)


_TIFF_REDUCED_OR_MASK = 0b101
_TIFF_UNASSOCIATED = 2
_TIFF_PACKINGS = {34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA", 50000: "ZSTD", 50001: "WebP"}
_TIFF_COLOURS = {0: "white is 0", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr"}


def _tiff(data: bytes) -> Header:
    pages = tiff.directories(data)
    page = next(pages, None)
    if page is None or not {tiff.WIDTH, tiff.HEIGHT} <= set(page.values):
        raise _no_image("TIFF", complete=True)
    several = any(not other.first(tiff.SUBFILE, 0) & _TIFF_REDUCED_OR_MASK for other in pages)
    unassociated = page.first(tiff.EXTRA_SAMPLES, 0) == _TIFF_UNASSOCIATED
    return Header(
        "TIFF",
        page.first(tiff.HEIGHT, 0),
        page.first(tiff.WIDTH, 0),
        page.whole(len(data)),
        "a TIFF of several pages" if several else _tiff_unsupported(page),
        page.offsets[tiff.EXTRA_SAMPLES] if unassociated else 0,
        page=page,
    )


def _tiff_unsupported(page: tiff.Directory) -> str:
    """Why OpenCV would refuse the page or, worse, decode it wrong; tried with OpenCV 5.0."""
    bits = set(page.values[tiff.BITS].tolist()) if tiff.BITS in page.values else {1}
    channels, colours = page.first(tiff.CHANNELS, 1), page.first(tiff.PHOTOMETRIC, 1)
    if packing := _TIFF_PACKINGS.get(page.first(tiff.COMPRESSION, 1)):
        return f"a TIFF compressed by {packing}"
    if page.first(tiff.SAMPLE_FORMAT, 1) != 1:
        return "a TIFF of signed or floating-point values"
    if bits not in ({1}, {2}, {4}, {8}, {16}):
        return f"a TIFF with values of {', '.join(map(str, sorted(bits)))} bits"
    if channels > 4 or colours not in _TIFF_COLOURS:
        return f"a TIFF with {channels} channels and colour space {colours}"
    planes = channels > 1 and page.first(tiff.PLANAR, 1) != 1
    if bits == {16} and (planes or channels == 2 or colours not in (1, 2)):
        order = ", each channel by itself" if planes else ""
        return f"a TIFF of 16 bits with {channels} channels ({_TIFF_COLOURS[colours]}{order})"
    return ""


def _starts(*magics: bytes) -> re.Pattern[bytes]:
    return re.compile(b"|".join(magics), re.DOTALL)


_FORMATS: tuple[tuple[re.Pattern[bytes], Callable[[bytes], Header]], ...] = (
    (_starts(rb"\xff\xd8\xff"), _jpeg),
    (_starts(rb"\x89PNG\r\n\x1a\n"), _png),
    (_starts(rb"II\*\0", rb"MM\0\*", rb"II\+\0", rb"MM\0\+"), _tiff),
    (_starts(rb"RIFF....WEBPVP8[ LX]"), _webp),
    (_starts(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"), _bmp),
)
_OTHER_FORMATS = (
    (_starts(rb"GIF8[79]a"), "GIF"),
    (_starts(rb"....ftyp(avif|avis|heic|heix|mif1|msf1)"), "AVIF or HEIF"),
    (_starts(rb"\0\0\0\x0cjP  ", rb"\xff\x4f\xff\x51"), "JPEG 2000"),
    (_starts(rb"\xff\x0a", rb"\0\0\0\x0cJXL "), "JPEG XL"),
    (_starts(rb"P[1-7]\s"), "PNM"),
    (_starts(rb"v/1\x01"), "OpenEXR"),
    (_starts(rb"8BPS"), "PSD"),
)
