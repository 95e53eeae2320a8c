"""The directories of a TIFF or BigTIFF file: one for each page, mask or thumbnail in it.

Source: TIFF 6.0 section 2; BigTIFF widens its counts and offsets to 64 bits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
FILL_ORDER, ORIENTATION, CHANNELS, PLANAR, PREDICTOR = 266, 274, 277, 284, 317
STRIPS, STRIP_ROWS, STRIP_SIZES = 273, 278, 279
TILE_WIDTH, TILE_HEIGHT, TILES, TILE_SIZES = 322, 323, 324, 325
EXTRA_SAMPLES, SAMPLE_FORMAT, JPEG_TABLES = 338, 339, 347
WHITE_IS_0, GREY, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
_TAGS = {
    *(SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, ORIENTATION, CHANNELS),
    *(PLANAR, PREDICTOR, STRIPS, STRIP_ROWS, STRIP_SIZES, TILE_WIDTH, TILE_HEIGHT, TILES),
    *(TILE_SIZES, EXTRA_SAMPLES, SAMPLE_FORMAT, JPEG_TABLES),
}
_TYPES = {1: "u1", 3: "u2", 4: "u4", 7: "u1", 16: "u8"}


@dataclass(frozen=True)
class Directory:
    """Values of the tags named above, and their offsets in the file."""

    values: dict[int, NDArray[np.unsignedinteger]]
    offsets: dict[int, int]

    def first(self, tag: int, default: int) -> int:
        """First value of a tag; `default` where the tag is not there, or empty."""
        values = self.values.get(tag)
        return int(values[0]) if values is not None and len(values) else default

    def whole(self, num_bytes: int) -> bool:
        """Whether all strips and tiles lie within a file of that size."""
        for starts_tag, sizes_tag in ((STRIPS, STRIP_SIZES), (TILES, TILE_SIZES)):
            if starts_tag in self.values and sizes_tag in self.values:
                starts, sizes = self.values[starts_tag], self.values[sizes_tag]
                num = min(len(starts), len(sizes))
                # As floats, so that 64-bit nonsense cannot wrap around.
                ends = starts[:num].astype(np.float64) + sizes[:num]
                if num and ends.max() > num_bytes:
                    return False
        return True

    def pieces(self) -> list[tuple[int, int]]:
        """Start and size of each strip or tile."""
        tags = (TILES, TILE_SIZES) if TILES in self.values else (STRIPS, STRIP_SIZES)
        starts, sizes = (self.values[tag].tolist() if tag in self.values else [] for tag in tags)
        return list(zip(starts, sizes, strict=False))

    def num_unpacked(self) -> int:
        """Bytes of all strips or tiles when unpacked."""
        width, height = self.first(WIDTH, 0), self.first(HEIGHT, 0)
        channels = self.first(CHANNELS, 1)
        planes = channels if self.first(PLANAR, 1) == 2 else 1
        bits = self.first(BITS, 1) * (channels // planes)
        if TILES not in self.values:
            return planes * height * -(-width * bits // 8)
        tile_height, tile_width = self.first(TILE_HEIGHT, 0), self.first(TILE_WIDTH, 0)
        return len(self.values[TILES]) * tile_height * -(-tile_width * bits // 8)


def directories(data: bytes) -> Iterator[Directory]:
    """The directories in the file's order; one that names an earlier one as next ends them.

    Raises:
        struct.error, OverflowError, ValueError: the file ends before what it points to.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    (offset,) = (
        struct.unpack_from(f"{order}Q", data, 8)
        if big
        else struct.unpack_from(f"{order}I", data, 4)
    )
    seen = set()
    while offset and offset not in seen:
        seen.add(offset)
        directory, offset = _directory(data, offset, order, big)
        yield directory


def _directory(data: bytes, offset: int, order: str, big: bool) -> tuple[Directory, int]:
    """The directory at `offset`, and the offset of the next one; 0: it is the last."""
    count_format, entry_format, pointer = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    head, room = struct.calcsize(f"={entry_format}"), struct.calcsize(f"={pointer}")
    (count,) = struct.unpack_from(order + count_format, data, offset)
    offset += struct.calcsize(f"={count_format}")
    values, offsets = {}, {}
    for _ in range(count):
        tag, kind, number = struct.unpack_from(order + entry_format, data, offset)
        if tag in _TAGS and kind in _TYPES:
            dtype = np.dtype(order + _TYPES[kind])
            at = offset + head
            if number * dtype.itemsize > room:  # too many for the entry: it points to them
                (at,) = struct.unpack_from(order + pointer, data, at)
            values[tag] = np.frombuffer(data, dtype, number, at)
            offsets[tag] = at
        offset += head + room
    (following,) = struct.unpack_from(order + pointer, data, offset)
    return Directory(values, offsets), following
