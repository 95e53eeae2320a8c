"""Image files that cannot be scored, by the kind of their error, and odd ones that can."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from tests.support.archive_pictures import encode
from tests.support.pictures import pillow, png, png_chunk

MAX_BYTES = 2 * 2**20
"""`archive.max_bytes` of the nights that meet these."""

MARKER = b"mrkd-test-poison"
"""Of `tests/support/poison`: with it on its path, a process that decodes these bytes dies."""

Image = NDArray[np.uint8]


def _bomb(picture: Image) -> bytes:
    """A few bytes that say of themselves that they are 60,000 x 60,000 pixels."""
    return png(60_000, 60_000, bytes(1000))


def _large(picture: Image) -> bytes:
    return encode(picture) + bytes(MAX_BYTES)


def _torn(picture: Image) -> bytes:
    """A PNG with a flipped bit, which its checksum shows."""
    data = bytearray(encode(picture))
    data[len(data) // 2] ^= 4
    return bytes(data)


def _animated(picture: Image) -> bytes:
    frames = [Pillow.fromarray(picture), Pillow.fromarray(255 - picture)]
    return pillow(frames[0], "PNG", save_all=True, append_images=frames[1:])


def _pages(picture: Image) -> bytes:
    frames = [Pillow.fromarray(picture), Pillow.fromarray(255 - picture)]
    return pillow(frames[0], "TIFF", save_all=True, append_images=frames[1:])


BAD: Mapping[str, tuple[Callable[[Image], bytes], ...]] = {
    "empty": (lambda picture: b"",),
    "decode": (_torn, lambda picture: b"no picture, " * 20),
    "truncated": (
        lambda picture: encode(picture)[: len(encode(picture)) * 2 // 3],
        lambda picture: encode(picture, ".jpg")[:-200],
    ),
    "too_large": (_bomb, _bomb, _bomb, _large),
    "unsupported": (_animated, _pages, lambda picture: pillow(picture, "GIF")),
}
"""What is wrong with the file itself, in turn."""


def poison(picture: Image) -> bytes:
    """A whole PNG with the marker in a part that decoders pass over."""
    data = encode(picture)
    end = data.rindex(struct.pack(">I4s", 0, b"IEND"))
    return data[:end] + png_chunk(b"tEXt", b"Comment\0" + MARKER) + data[end:]


def _rotated(picture: Image) -> bytes:
    """A JPEG whose EXIF says that it lies on its side."""
    exif = Pillow.Exif()
    exif[0x0112] = 6
    return pillow(picture[: len(picture) // 2], "JPEG", quality=95, exif=exif)


def _alpha(picture: Image) -> bytes:
    grey = picture if picture.ndim == 2 else picture[..., 0]
    both = np.dstack([grey, np.full_like(grey, 128)])
    return pillow(Pillow.fromarray(both), "PNG")


def _sixteen(picture: Image) -> bytes:
    grey = picture if picture.ndim == 2 else picture[..., 0]
    return pillow(Pillow.fromarray(grey.astype(np.uint16) * 257), "PNG")


ODD: Mapping[str, Callable[[Image], bytes]] = {
    "16 bits": _sixteen,
    "CMYK": lambda picture: pillow(Pillow.fromarray(picture).convert("CMYK"), "JPEG", quality=95),
    "rotated": _rotated,
    "palette": lambda picture: pillow(Pillow.fromarray(picture).convert("RGB").quantize(64), "PNG"),
    "grey with alpha": _alpha,
}
"""Files that are scored like any other."""


def size_of(odd: str, picture: Image) -> tuple[int, int]:
    """Height and width that the row of an odd file has."""
    height, width = picture.shape[:2]
    return (width, height // 2) if odd == "rotated" else (height, width)


def tar(members: Mapping[str, bytes | None], sidecars: bool = False) -> bytes:
    """A tar of these members; None makes a link of the name, which leads out of the tar.

    Args:
        members: content by name.
        sidecars: whether a JSON file with a serial number stands beside each, as in a WebDataset.
    """
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as file:
        for number, (name, data) in enumerate(members.items()):
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.linkname = tarfile.SYMTYPE, "../../etc/passwd"
                file.addfile(info)
                continue
            if sidecars:
                text = json.dumps({"serial": f"S{number:05}"}).encode()
                beside = tarfile.TarInfo(f"{name.rpartition('.')[0]}.json")
                beside.size = len(text)
                file.addfile(beside, io.BytesIO(text))
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def cut(data: bytes) -> bytes:
    """The tar without the end of its last member's bytes."""
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        last = file.getmembers()[-1]
    return data[: last.offset_data + last.size // 2]


def damaged(data: bytes, after: int) -> bytes:
    """The tar with a header that no longer fits its checksum, behind the first `after` members."""
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        place = file.getmembers()[after].offset
    return data[:place] + b"\xff" * 512 + data[place + 512 :]
