"""File bytes to RGB pixels, and three numbers that describe an image."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import Literal, Self, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from mrkd.config import ArchiveConfig
from mrkd.data.images import bmp, strict
from mrkd.data.images.headers import Header, read_header
from mrkd.errors import ImageDecodeError

Pixels = NDArray[np.uint8]

_MAX_SIDE = 1_000_000  # libpng's own limit, the narrowest of the decoders'
_SHARPNESS_SIZE = 256
_ASSOCIATED = 1


@dataclass(frozen=True)
class DecodeLimits:
    """What an image may cost; checked before it is decoded.

    Attributes:
        max_pixels: height times width, from the header.
        max_bytes: size of the file.
        truncated: `accept` takes what a JPEG that was cut off still holds, the rest grey; other
            formats have no such part and stay errors.
    """

    max_pixels: int = 100_000_000
    max_bytes: int = 64 * 2**20
    truncated: Literal["error", "accept"] = "error"

    @classmethod
    def of(cls, archive: ArchiveConfig) -> Self:
        """Those of an archive."""
        return cls(archive.max_pixels, archive.max_bytes, archive.truncated)


@dataclass(frozen=True)
class Statistics:
    """The look of an image, to tell a drifting camera from a drifting product.

    Attributes:
        brightness: mean of the luma, 0 to 1.
        contrast: standard deviation of the luma, 0 to 0.5.
        sharpness: variance of the Laplacian (4 neighbours) of the luma at 256 x 256 pixels.
    """

    brightness: float
    contrast: float
    sharpness: float


STATISTICS = tuple(field.name for field in fields(Statistics))
"""Names of the statistics, which are also columns of a night's rows."""


def decode(data: bytes, limits: DecodeLimits | None = None) -> Pixels:
    """The image in the bytes of a PNG, JPEG, TIFF, BMP or WebP file.

    It is turned upright by its EXIF or TIFF orientation. Grey becomes three equal channels, alpha
    is dropped and the colours below it stay, palettes, CMYK and YCbCr become RGB without colour
    management. 16 bits are taken as full scale: 65535 becomes 255, by v / 257, rounded.

    Args:
        data: the whole file.
        limits: limits on size and bytes; None: the defaults.

    Returns:
        uint8 `[H0, W0, 3]` RGB.

    Raises:
        ImageDecodeError: of kind empty; too_large; unsupported (several frames or pages,
            floating-point values, another format); truncated; or decode for all other damage.
            Damage within is found by the checksums of PNG and deflate, and by the codes and
            lengths of JPEG, LZW, PackBits and RLE; not in a WebP, nor in a BMP or TIFF that is
            not packed.
    """
    limits = limits or DecodeLimits()
    if not data:
        raise ImageDecodeError("empty", "the file has 0 bytes: send it again")
    if len(data) > limits.max_bytes:
        message = f"{len(data):,} bytes, allowed {limits.max_bytes:,}: raise archive.max_bytes"
        raise ImageDecodeError("too_large", message)
    header = read_header(data)
    _check(header, limits)
    pixels = strict.decode(data, header)
    if pixels is not None:
        return pixels
    if not header.complete:
        data += b"\xff\xd9"  # end of image, which the decoder waits for
    if header.alpha_offset:
        data = _keep_colours(data, header.alpha_offset)
    if header.format == "BMP":
        data = bmp.readable(data)
    bgr = _imdecode(data, header.format)
    if bgr.dtype == np.uint16:
        bgr = np.asarray(cv2.convertScaleAbs(bgr, alpha=1 / 257), np.uint8)  # rounds
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _check(header: Header, limits: DecodeLimits) -> None:
    size = f"{header.height} x {header.width} pixels"
    if header.height < 1 or header.width < 1:
        raise ImageDecodeError("decode", f"a {header.format} of {size}: write it again")
    if max(header.height, header.width) > _MAX_SIDE:
        raise ImageDecodeError("too_large", f"{size}, allowed {_MAX_SIDE:,} a side: cut it")
    if header.height * header.width > limits.max_pixels:
        message = f"{size}, allowed {limits.max_pixels:,} in all: raise archive.max_pixels"
        raise ImageDecodeError("too_large", message)
    if header.unsupported:
        message = f"{header.unsupported} is not decoded: save one image of 8 or 16 bits"
        raise ImageDecodeError("unsupported", message)
    if not header.complete and not (limits.truncated == "accept" and header.format == "JPEG"):
        message = f"the {header.format} of {size} is cut off: send it again"
        raise ImageDecodeError("truncated", message)


def _keep_colours(data: bytes, alpha_offset: int) -> bytes:
    # libtiff blends such colours over black. Called associated, they are left as they are.
    patched = bytearray(data)
    low = alpha_offset if data[:2] == b"II" else alpha_offset + 1
    patched[low] = _ASSOCIATED
    return bytes(patched)


def _imdecode(data: bytes, name: str) -> NDArray[np.uint8 | np.uint16]:
    _silence()
    buffer = np.frombuffer(data, np.uint8)
    try:
        # BGR: asked for RGB, OpenCV 5.0 gives BGR for TIFFs of 16 bits.
        pixels = cv2.imdecode(buffer, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise ImageDecodeError("decode", f"the {name} is damaged: send it again") from error
    if pixels is None:
        raise ImageDecodeError("decode", f"the {name} is damaged: send it again")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ImageDecodeError("unsupported", f"a {name} of {pixels.dtype}: save it with 8 bits")
    return cast(NDArray[np.uint8 | np.uint16], pixels)


@functools.cache
def _silence() -> None:
    # What OpenCV would log becomes the text of an ImageDecodeError, and a row.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def statistics(rgb: Pixels) -> Statistics:
    """Brightness, contrast and sharpness of an image, uint8 `[H0, W0, 3]` RGB.

    Luma is ITU-R BT.601's, 0 to 1. Sharpness is measured at one size, so that images of
    different sizes compare; it rises with detail and with noise.
    """
    luma = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    mean, deviation = cv2.meanStdDev(luma)
    size = (_SHARPNESS_SIZE, _SHARPNESS_SIZE)
    small = cv2.resize(luma, size, interpolation=cv2.INTER_AREA)
    _, edges = cv2.meanStdDev(cv2.Laplacian(small, cv2.CV_32F))
    return Statistics(
        brightness=float(mean[0, 0]) / 255,
        contrast=float(deviation[0, 0]) / 255,
        sharpness=(float(edges[0, 0]) / 255) ** 2,
    )
