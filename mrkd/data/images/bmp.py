"""BMPs with bit masks, which name the bits of a pixel that are red, green and blue, and with runs.

OpenCV takes the masks of 32-bit pixels for granted behind short headers, and those of 16 bits
behind long ones it does not find: such files get the header that it reads right.
"""

from __future__ import annotations

import struct

_RLE8, _RLE4 = 1, 2  # codings
_MASKED = (3, 6)  # codings: three masks; four, with alpha
_MASKS_AT = 54
_BYTES = {0xFF << shift for shift in (0, 8, 16, 24)}
_FIVES = {(0x7C00, 0x3E0, 0x1F), (0xF800, 0x7E0, 0x1F)}


def unsupported(data: bytes) -> str:
    """The masks, if they are of a kind that is not decoded; empty: they are, or there are none.

    Raises:
        struct.error: the file ends before them.
    """
    masks = _masks(data)
    if masks is None or masks in _FIVES or (len(set(masks)) == 3 and set(masks) <= _BYTES):
        return ""
    return f"a BMP with the bit masks {', '.join(f'{mask:x}' for mask in masks)}"


def readable(data: bytes) -> bytes:
    """The file with its masks where OpenCV looks for them; unchanged where it has none."""
    masks = _masks(data)
    if masks is None:
        return data
    start = struct.unpack_from("<I", data, 10)[0]
    size = 40 if masks in _FIVES else 56
    header = struct.pack("<I", size) + data[18:30] + struct.pack("<I", 3) + data[34:_MASKS_AT]
    header += struct.pack("<4I", *masks, 0)
    return data[:10] + struct.pack("<I", 14 + len(header)) + header + data[start:]


def damage_of_runs(data: bytes) -> str:
    """What is wrong with the runs of a file in RLE; empty: nothing, or it has no runs."""
    size, width, height = struct.unpack_from("<Iii", data, 14)
    coding = struct.unpack_from("<I", data, 30)[0] if size >= 40 else 0
    if coding not in (_RLE8, _RLE4):
        return ""
    place, x, y = struct.unpack_from("<I", data, 10)[0], 0, 0
    while place + 2 <= len(data):
        count, value = data[place : place + 2]
        place += 2
        if count:
            x += count
        elif value == 0:  # end of the row
            x, y = 0, y + 1
        elif value == 1:  # end of the image
            return ""
        elif value == 2:  # a jump
            right, up = data[place : place + 2].ljust(2, b"\0")
            x, y, place = x + right, y + up, place + 2
        else:  # so many values as they are, in whole words
            x += value
            place += -(-value // (2 if coding == _RLE8 else 4)) * 2
        if x > width + 3 or y > height or (x and y == height):  # a row may end with a whole word
            return "runs beyond the image"
    return "" if y >= height - 1 else "its data ends early"


def _masks(data: bytes) -> tuple[int, ...] | None:
    if struct.unpack_from("<I", data, 14)[0] < 40:
        return None
    bits, coding = struct.unpack_from("<HI", data, 28)
    masked = coding in _MASKED and bits in (16, 32)
    return struct.unpack_from("<3I", data, _MASKS_AT) if masked else None
