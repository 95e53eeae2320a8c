"""Small image files in many formats, written by Pillow and tifffile; mrkd writes none with them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image


def smooth(height: int = 30, width: int = 40, seed: int = 0) -> NDArray[np.uint8]:
    """A picture without sharp edges, uint8 `[height, width, 3]` RGB, that JPEG hardly changes."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def pillow(picture: Image.Image | NDArray[np.uint8], format: str, **options: Any) -> bytes:
    """The file that Pillow writes."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


def tiff(values: NDArray[Any], **options: Any) -> bytes:
    """The file that tifffile writes."""
    sink = io.BytesIO()
    tifffile.imwrite(sink, values, **options)
    return sink.getvalue()


def png_chunk(name: bytes, content: bytes) -> bytes:
    """A chunk with its length and checksum."""
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def png(height: int, width: int, rows: bytes) -> bytes:
    """An 8-bit grey PNG that says so of its size, whatever its rows hold."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)
