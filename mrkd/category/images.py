"""The good images of one category: which stand on which side, and their pixels."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import IO

import numpy as np
from numpy.typing import NDArray

from mrkd import datasets, decoding
from mrkd.calibration import check_counts
from mrkd.config import FitConfig
from mrkd.datasets import Sample, Side
from mrkd.decoding import Decoded, Decoder
from mrkd.errors import CategoryError
from mrkd.threads import in_threads

SIDES: tuple[Side, ...] = ("train", "validation", "calibration")


@dataclass(frozen=True)
class GoodImage:
    """A good image as stored.

    Args:
        sample: where it is.
        digest: sha256 of its file.
        key: what decides its side, `datasets.side_key`.
        side: where it stands in training.
    """

    sample: Sample
    digest: str
    key: str
    side: Side


@dataclass(frozen=True)
class DecodedImages:
    """The good images that can be decoded, ordered by side and content.

    Args:
        good: the images.
        decoded: of each the pixels, a view into `pixels`, and the statistics.
        pixels: uint8 `[>= rows, S, S, 3]`, the images' squares: each one, or all its tiles.
        skipped: those that cannot be decoded, each with its reason.
    """

    good: list[GoodImage]
    decoded: list[Decoded]
    pixels: NDArray[np.uint8]
    skipped: list[str]

    def on(self, side: Side) -> slice:
        """Where the images of a side stand."""
        rows = [n for n, one in enumerate(self.good) if one.side == side]
        return slice(rows[0], rows[-1] + 1) if rows else slice(0, 0)

    def only(self, side: Side) -> DecodedImages:
        """Those of a side alone."""
        rows = self.on(side)
        good, decoded = self.good[rows], self.decoded[rows]
        return replace(self, good=good, decoded=decoded, pixels=self.squares(side))

    def squares(self, side: Side) -> NDArray[np.uint8]:
        """The pixels of a side, as a network takes them: uint8 `[rows, S, S, 3]`."""
        images = self.on(side)
        before, until = (
            sum(map(_num_squares, self.decoded[:end])) for end in (images.start, images.stop)
        )
        return self.pixels[before:until]

    def names(self, side: Side) -> list[str]:
        """Of each of the side's squares a name that hangs on its content, not on its place."""
        images = self.on(side)
        return [
            name
            for one, decoded in zip(self.good[images], self.decoded[images], strict=True)
            for name in _names(one.digest, decoded)
        ]


def read_good(samples: Sequence[Sample], config: FitConfig) -> list[GoodImage]:
    """The images with digest and side, ordered by side and content.

    By content, not by name: a renamed folder gives the same version, so it must give the same
    weights. An unreadable place ends the category: it may come back, and a model of what could be
    reached today would stand for all.
    """

    def look(sample: Sample) -> GoodImage:
        data = datasets.read_image(sample)
        key = datasets.side_key(sample, data)
        side = sample.side or datasets.side(
            key,
            validation_share=config.validation_share,
            calibration_share=config.calibration_share,
        )
        return GoodImage(sample, hashlib.sha256(data).hexdigest(), key, side)

    found = in_threads(look, samples)
    return sorted(found, key=lambda one: (one.side, one.digest, one.key))


def without_defects(
    good: Sequence[GoodImage], samples: Sequence[Sample]
) -> tuple[list[GoodImage], list[str]]:
    """The images in which nobody has found a defect, each once, and one line for each other one.

    Args:
        good: of `read_good`.
        samples: of the category; those of label 1 for training have bytes that none may have.
    """
    defects = {one.sha256 for one in samples if one.split == "train" and one.gt_label}
    left_out = [
        f"{one.sample.image_uri}: people found a defect in it"
        for one in good
        if one.digest in defects
    ]
    given = {one.digest for one in good if one.sample.side is None}
    kept = [
        one
        for one in good
        if one.digest not in defects and (one.sample.side is None or one.digest not in given)
    ]
    return kept, left_out


def fingerprint(good: list[GoodImage]) -> str:
    """Sha256 over content and side key of every image: names and places do not matter."""
    lines = sorted(f"{one.digest} {one.key}\n" for one in good)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def count_sides(good: list[GoodImage]) -> dict[str, int]:
    """How many images stand on each side."""
    return {side: sum(one.side == side for one in good) for side in SIDES}


def check_sides(good: list[GoodImage], skipped: Sequence[str] = ()) -> None:
    """Whether every side has images enough.

    Raises:
        CategoryError: it has not; with the counts, and the first of the `skipped`.
    """
    num_images = count_sides(good)
    also = f"; {len(skipped)} more cannot be decoded, such as {skipped[0]}" if skipped else ""
    if num_images["validation"]:
        also = f"; {num_images['validation']} stand on the validation side{also}"
    check_counts(num_images["train"], num_images["calibration"], also)
    if not num_images["validation"]:
        raise CategoryError(
            f"none of {len(good)} good images stands on the validation side, which ends the "
            f"training: add good images or raise train.validation_share{also}"
        )


def decode_good(good: list[GoodImage], decoder: Decoder) -> DecodedImages:
    """The images at the model's size, in the order given.

    Raises:
        CategoryError: an image is another than the one that was hashed, or cannot be read now.
    """
    kept: list[tuple[GoodImage, Decoded, slice]] = []
    skipped: list[str] = []
    found = decoding.decode_samples([one.sample for one in good], decoder)
    with tempfile.TemporaryFile(prefix="mrkd-tiles-") if decoder.tiles else nullcontext() as file:
        squares = _Squares(decoder.size, len(good), file)
        for one, decoded in zip(good, found, strict=True):
            if decoded.etag != one.digest:
                raise CategoryError(
                    f"{decoded.image_uri} changed while the category was read "
                    f"({decoded.error_message or 'other content'}): start again when it is complete"
                )
            if decoded.pixels is None:
                skipped.append(f"{decoded.image_uri}: {decoded.error_message}")
                continue
            kept.append((one, replace(decoded, pixels=None), squares.add(decoded.pixels)))
        pixels = squares.array()
    images = DecodedImages([], [], pixels, skipped)
    for one, decoded, rows in kept:
        images.good.append(one)
        place = pixels[rows] if decoder.tiles else pixels[rows.start]
        images.decoded.append(replace(decoded, pixels=place))
    return images


class _Squares:
    """Squares of the model's size, put one after another.

    Args:
        size: of a square.
        num_images: of one square each, whose room is taken at once.
        file: holds them instead of memory, for the tiles of large pictures: a file without a name,
            which the operating system pages and of which a killed process leaves nothing.
    """

    def __init__(self, size: int, num_images: int, file: IO[bytes] | None) -> None:
        self._shape, self._file, self._num = (size, size, 3), file, 0
        self._array = np.empty((0 if file else num_images, *self._shape), np.uint8)

    def add(self, pixels: NDArray[np.uint8]) -> slice:
        """Takes an image's squares; where they stand."""
        squares = pixels.reshape(-1, *self._shape)
        rows = slice(self._num, self._num + len(squares))
        if self._file:
            self._file.write(squares.data)
        else:
            self._array[rows] = squares
        self._num = rows.stop
        return rows

    def array(self) -> NDArray[np.uint8]:
        """All of them, uint8 `[>= num, S, S, 3]`; it outlives the file."""
        if not self._file or not self._num:
            return self._array
        self._file.flush()
        return np.asarray(np.memmap(self._file, np.uint8, "r+", shape=(self._num, *self._shape)))


def _num_squares(image: Decoded) -> int:
    assert image.pixels is not None
    return len(image.pixels) if image.pixels.ndim == 4 else 1


def _names(digest: str, image: Decoded) -> list[str]:
    assert image.pixels is not None
    if image.pixels.ndim == 3:
        return [digest]
    return [f"{digest} {number}" for number in range(len(image.pixels))]
