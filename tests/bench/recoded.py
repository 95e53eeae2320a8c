"""Undamaged images coded anew by three encoders: none is refused, all have OpenCV's pixels.

    python -m tests.bench.recoded FOLDER... [--num 1000] [--seed 0] [--largest 1200]

Takes photographs below the folders, codes `num` of them as JPEG, PNG and TIFF by OpenCV, Pillow
and ImageMagick in turn with options drawn at random, and decodes each file with and without the
checks of `mrkd.data.images.strict`. Prints refusals, differences and the CPU time of both, once a
format, as JSON lines; exit status 1 if a file was refused or differs. ImageMagick's `convert` must
be installed, or its path in `CONVERT`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
from PIL import Image

from mrkd.data import images
from mrkd.data.images import strict
from mrkd.errors import ImageDecodeError

CONVERT = os.environ.get("CONVERT", "/usr/bin/convert")
_SUFFIXES = {".jpg", ".png", ".bmp"}
_SAMPLINGS = {
    name: getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}")
    for name in ("411", "420", "422", "440", "444")
}


def by_opencv(rgb: np.ndarray, format: str, rng: random.Random) -> bytes:
    """The file that OpenCV writes."""
    bgr = np.ascontiguousarray(rgb[..., ::-1] if rng.random() < 0.7 else rgb[..., 0])
    wide = format != "JPEG" and rng.random() < 0.2
    flags = {
        "JPEG": [
            *(cv2.IMWRITE_JPEG_QUALITY, rng.choice([30, 75, 92, 100])),
            *(cv2.IMWRITE_JPEG_PROGRESSIVE, rng.randrange(2)),
            *(cv2.IMWRITE_JPEG_OPTIMIZE, rng.randrange(2)),
            *(cv2.IMWRITE_JPEG_RST_INTERVAL, rng.choice([0, 0, 1, 16])),
            *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, rng.choice(list(_SAMPLINGS.values()))),
        ],
        "PNG": [cv2.IMWRITE_PNG_COMPRESSION, rng.randrange(10)],
        "TIFF": [
            *(cv2.IMWRITE_TIFF_COMPRESSION, rng.choice([1, 5, 8, 32773])),
            *(cv2.IMWRITE_TIFF_PREDICTOR, rng.choice([1, 2])),
        ],
    }[format]
    values = bgr.astype(np.uint16) * 257 if wide else bgr
    suffix = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif"}[format]
    return cv2.imencode(suffix, values, flags)[1].tobytes()


def by_pillow(rgb: np.ndarray, format: str, rng: random.Random) -> bytes:
    """The file that Pillow writes."""
    modes = {
        "JPEG": ["RGB", "RGB", "RGB", "L", "CMYK"],
        "PNG": ["RGB", "RGB", "L", "P", "1", "RGBA"],
        "TIFF": ["RGB", "RGB", "L", "P", "1", "CMYK"],
    }[format]
    image = Image.fromarray(rgb).convert(rng.choice(modes))
    exif = Image.Exif()
    exif[0x010F] = "camera"
    if rng.random() < 0.3:
        exif[0x0112] = rng.randrange(1, 9)
    choices: dict[str, dict[str, Any]] = {
        "JPEG": {
            "quality": rng.choice([30, 75, 92, 100]),
            "progressive": rng.random() < 0.3,
            "optimize": rng.random() < 0.3,
            "subsampling": rng.choice([0, 1, 2]),
            "restart_marker_blocks": rng.choice([0, 0, 5]),
            "restart_marker_rows": rng.choice([0, 0, 1]),
            "exif": exif,
        },
        "PNG": {"optimize": rng.random() < 0.2, "exif": exif},
        "TIFF": {"compression": rng.choice([None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])},
    }
    options = choices[format]
    if format == "TIFF" and image.mode in ("RGB", "L") and rng.random() < 0.15:
        options = {"compression": "jpeg"}
    several = format == "JPEG" and image.mode == "RGB" and rng.random() < 0.1
    if several:  # as some cameras do, the images after the first smaller
        small = image.resize((max(image.width // 4, 1), max(image.height // 4, 1)))
        options = {"save_all": True, "append_images": [small]}
    sink = io.BytesIO()
    image.save(sink, "MPO" if several else format, **options)
    return sink.getvalue()


def by_imagemagick(rgb: np.ndarray, format: str, rng: random.Random) -> bytes:
    """The file that ImageMagick writes."""
    options = {
        "JPEG": [
            *("-quality", rng.choice(["30", "75", "92", "100"])),
            *("-sampling-factor", rng.choice(["1x1", "2x1", "2x2", "1x2", "4x1"])),
            *rng.choice([[], ["-interlace", "JPEG"], ["-colorspace", "CMYK"]]),
            *rng.choice([[], [], ["-define", "jpeg:arithmetic-coding=true"]]),
        ],
        "PNG": rng.choice([[], ["-interlace", "PNG"], ["-depth", "16"], ["-colors", "64"]]),
        "TIFF": [
            *("-compress", rng.choice(["None", "LZW", "Zip", "RLE", "JPEG"])),
            *rng.choice([[], ["-endian", "MSB"], ["-define", "tiff:rows-per-strip=1"]]),
            *rng.choice([[], [], ["-define", "tiff:tile-geometry=64x64"]]),
        ],
    }[format]
    grey = ["-colorspace", "Gray"] if rng.random() < 0.3 and "CMYK" not in options else []
    png = cv2.imencode(".png", rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    command = [CONVERT, "png:-", *grey, *options, f"{format}:-"]
    return subprocess.run(command, input=png, capture_output=True, check=True).stdout


def with_additions(jpeg: bytes, rng: random.Random) -> bytes:
    """The JPEG with what cameras add: an appendix, a thumbnail, fill bytes before markers."""
    end, scan = jpeg.rindex(b"\xff\xd9"), jpeg.index(b"\xff\xda")
    thumbnail = cv2.imencode(".jpg", np.full((12, 16, 3), 90, np.uint8))[1].tobytes()
    segment = b"\xff\xe5" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    return rng.choice(
        [
            jpeg,
            jpeg,
            jpeg + b"\0" * rng.randrange(1, 5000),
            jpeg + thumbnail,
            jpeg[:2] + segment + jpeg[2:],
            jpeg[:scan] + b"\xff" * rng.randrange(1, 9) + jpeg[scan:],
            jpeg[:end] + b"\xff" * rng.randrange(1, 9) + jpeg[end:],
        ]
    )


ENCODERS = {"OpenCV": by_opencv, "Pillow": by_pillow, "ImageMagick": by_imagemagick}


def recode(path: Path, format: str, encoder: str, largest: int, rng: random.Random) -> bytes:
    """A photograph as a file of the format."""
    rgb = np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1])
    top, left = (max(size - largest, 0) // 2 for size in rgb.shape[:2])
    rgb = np.ascontiguousarray(rgb[top : top + largest, left : left + largest])
    data = ENCODERS[encoder](rgb, format, rng)
    several = data.count(b"\xff\xd9") > 1
    return with_additions(data, rng) if format == "JPEG" and not several else data


def timed(data: bytes) -> tuple[np.ndarray | str, float]:
    """The image or what its error says, and the CPU time that it took."""
    found: np.ndarray | str
    start = time.process_time_ns()
    try:
        found = images.decode(data)
    except ImageDecodeError as error:
        found = str(error)
    return found, (time.process_time_ns() - start) / 1e9


def compare(format: str, paths: Sequence[Path], options: argparse.Namespace) -> dict[str, Any]:
    """Refusals, differences and CPU times of one format."""
    rng = random.Random(f"{options.seed} {format}")
    counts, wrong = Counter(), []
    seconds = {name: {"checked": 0.0, "plain": 0.0} for name in ("all", *ENCODERS)}
    for number in range(options.num):
        path = rng.choice(paths)
        encoder = list(ENCODERS)[number % len(ENCODERS)]
        data = recode(path, format, encoder, options.largest, rng)
        for turn in range(3):  # the first warms up
            found, checked = timed(data)
            with patch.object(strict, "decode", new=lambda *_: None):
                expected, plain = timed(data)
            if turn:
                for name in ("all", encoder):
                    seconds[name]["checked"] += checked
                    seconds[name]["plain"] += plain
        counts[encoder] += 1
        same = not isinstance(found, str) and np.array_equal(found, np.asarray(expected))
        if not same:
            reason = found if isinstance(found, str) else "other pixels"
            wrong.append(f"{path.name} by {encoder}: {reason}")
            if options.keep:
                (options.keep / f"{format}_{number}").write_bytes(data)
    return {
        "format": format,
        "files": dict(counts),
        "wrong": wrong,
        "cpu_ms_unchecked": round(seconds["all"]["plain"] / 2 / options.num * 1e3, 3),
        "cpu_ms": round(seconds["all"]["checked"] / 2 / options.num * 1e3, 3),
        "ratio": {
            name: round(both["checked"] / both["plain"], 3) for name, both in seconds.items()
        },
    }


def main() -> int:
    """Runs the comparison; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--largest", type=int, default=1200, help="longest side that is coded")
    parser.add_argument("--keep", type=Path, help="folder for the files that are wrong")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    paths = [path for folder in options.folders for path in sorted(folder.rglob("*.*"))]
    paths = [path for path in paths if path.suffix.lower() in _SUFFIXES]
    wrong = 0
    for format in ("JPEG", "PNG", "TIFF"):
        line = compare(format, paths, options)
        print(json.dumps(line), flush=True)
        wrong += len(line["wrong"])
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
