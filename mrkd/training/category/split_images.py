"""The good images of one category and their pixels."""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrkd import storage
from mrkd.data import datasets, preprocess
from mrkd.data.datasets import Sample
from mrkd.data.preprocess import Decoded, Preprocessor
from mrkd.errors import CategoryError, StorageError
from mrkd.storage.thread_map import in_threads
from mrkd.training.category.up_to_date import good_samples
from mrkd.training.fit.process_group import ProcessGroup

MIN_IMAGES = 4
"""Good images from which on a category trains."""


@dataclass(frozen=True)
class GoodImage:
    """A good image as stored.

    Args:
        sample: where it is.
        digest: sha256 of its file.
    """

    sample: Sample
    digest: str

    @property
    def key(self) -> str:
        """Its content, and its side and group if the listing names them."""
        return f"{self.digest} {self.sample.side or ''} {self.sample.group or ''}"

    @property
    def calibrates(self) -> bool:
        """Whether thresholds are made with it: not if the listing fixes its side of training."""
        return self.sample.side is None


@dataclass(frozen=True)
class DecodedImages:
    """The good images that can be decoded, ordered by content.

    Args:
        good: the images.
        decoded: pixels of each image, a view into `pixels`, and its statistics.
        pixels: uint8 `[>= rows, S, S, 3]`, the images' squares: each one, or all its tiles.
        skipped: those that cannot be decoded, each with its reason.
    """

    good: list[GoodImage]
    decoded: list[Decoded]
    pixels: NDArray[np.uint8]
    skipped: list[str]

    def __len__(self) -> int:
        return len(self.good)

    def __reduce__(self) -> tuple[Any, ...]:
        """Each pixel once: the images' own are views into all."""
        bare = [replace(one, pixels=None) for one in self.decoded]
        tiled = any(one.pixels is not None and one.pixels.ndim == 4 for one in self.decoded)
        pixels = self.pixels[: self.num_squares]
        return _with_pixels, (self.good, bare, self.rows, tiled, pixels, self.skipped)

    @cached_property
    def rows(self) -> list[slice]:
        """The squares of each image."""
        size = math.prod(self.pixels.shape[1:])
        sizes = [image.pixels.size // size for image in self.decoded if image.pixels is not None]
        ends = np.cumsum(sizes).tolist()
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    @property
    def num_squares(self) -> int:
        """Squares of all images."""
        return self.rows[-1].stop if self.rows else 0

    def for_squares(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """One value an image as one a square."""
        return np.repeat(values, [rows.stop - rows.start for rows in self.rows])

    def squares(self, number: int) -> NDArray[np.uint8]:
        """An image as a network takes it: uint8 `[T, S, S, 3]`."""
        return self.pixels[self.rows[number]]

    def squares_of(self, numbers: Iterable[int]) -> NDArray[np.int64]:
        """The rows in `pixels` of some images."""
        own = [np.arange(self.rows[n].start, self.rows[n].stop) for n in numbers]
        return np.concatenate([np.zeros(0, np.int64), *own])

    def names(self, numbers: Iterable[int]) -> list[str]:
        """A name for each square of some images that depends on its content, not on its row."""
        found = []
        for n in numbers:
            digest, pixels = self.good[n].digest, self.decoded[n].pixels
            assert pixels is not None
            tiled = pixels.ndim == 4
            found += [f"{digest} {tile}" for tile in range(len(pixels))] if tiled else [digest]
        return found

    @property
    def digests(self) -> list[str]:
        """Sha256 of each image's file."""
        return [one.digest for one in self.good]


def _with_pixels(
    good: list[GoodImage],
    bare: Sequence[Decoded],
    rows: Sequence[slice],
    tiled: bool,
    pixels: NDArray[np.uint8],
    skipped: list[str],
) -> DecodedImages:
    """The images, their pixels views into `pixels`."""
    decoded = [
        replace(one, pixels=pixels[own] if tiled else pixels[own.start])
        for one, own in zip(bare, rows, strict=True)
    ]
    return DecodedImages(good, decoded, pixels, skipped)


@dataclass(frozen=True)
class ReadImages:
    """The good images of one category, read from storage.

    Args:
        good: the images to train on, ordered by content.
        unreadable: images that are not readable, a line each.
        left_out: these, and images in which a reviewer found a defect, a line each.
        decoded: their pixels; None: they are still to be decoded.
        seconds: seconds of `read` and `decode`.
    """

    good: list[GoodImage]
    unreadable: list[str]
    left_out: list[str]
    decoded: DecodedImages | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def read_images(
    samples: Sequence[Sample],
    decoder: Preprocessor | None = None,
    group: ProcessGroup | None = None,
) -> ReadImages:
    """The good images of a category, with their pixels where a decoder is given.

    Args:
        samples: all samples of the category.
        decoder: makes pixels of the files.
        group: workers that each read a part; None: this one reads all.

    Raises:
        CategoryError: they are too few, or one changes meanwhile.
        StorageError: an image cannot be reached now.
    """
    began = time.perf_counter()
    readable, unreadable = read_good(good_samples(samples), group)
    good, with_defects = without_defects(readable, samples)
    left_out = [*unreadable, *with_defects]
    check_count(good, left_out)
    seconds = {"read": time.perf_counter() - began}
    if decoder is None:
        return ReadImages(good, unreadable, left_out, None, seconds)
    began = time.perf_counter()
    decoded = decode_good(good, decoder, group)
    seconds["decode"] = time.perf_counter() - began
    return ReadImages(good, unreadable, left_out, decoded, seconds)


def read_good(
    samples: Sequence[Sample], group: ProcessGroup | None = None
) -> tuple[list[GoodImage], list[str]]:
    """The images with their digests, ordered by content, and a line for each that is not readable.

    By content, not by name: a renamed folder gives the same version, so it must give the same
    weights.

    Args:
        samples: the images.
        group: workers that each read a part; None: this one reads all.

    Raises:
        StorageError: an image cannot be reached now, or was removed since it was listed: it may
            come back, and a model of the images that could be read today would pass for one of all.
    """
    unreadable: dict[str, StorageError] = {}

    def look(sample: Sample) -> GoodImage | None:
        try:
            data = datasets.read_image(sample)
        except StorageError as error:
            if error.kind not in ("missing", "forbidden"):
                raise
            unreadable[sample.image_uri] = error
            return None
        return GoodImage(sample, hashlib.sha256(data).hexdigest())

    group = group or ProcessGroup()
    read = [one for one in in_threads(look, samples[group.rank :: group.size]) if one]
    parts = group.share((read, unreadable))
    found = [one for images, _ in parts for one in images]
    unreadable = {uri: error for _, errors in parts for uri, error in errors.items()}
    gone = {uri for uri, error in unreadable.items() if error.kind == "missing"}
    for folder in {uri.rpartition("/")[0] for uri in gone}:
        gone -= {file.uri for file in storage.list_files(folder)}  # dead links remain listed
    for uri in sorted(gone):
        raise unreadable[uri]
    lines = [f"{uri}: {error}" for uri, error in sorted(unreadable.items())]
    return sorted(found, key=lambda one: one.key), lines


def without_defects(
    good: Sequence[GoodImage], samples: Sequence[Sample]
) -> tuple[list[GoodImage], list[str]]:
    """The images in which nobody has found a defect, each once, and one line for each other one.

    Args:
        good: images of `read_good`.
        samples: all samples of the category; bytes of a training sample of label 1 are left out.
    """
    defects = {one.sha256 for one in samples if one.split == "train" and one.gt_label}
    left_out = [
        f"{one.sample.image_uri}: a reviewer found a defect in it"
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
    """Sha256 over content and group of every image, independent of names and folders."""
    lines = sorted(f"{one.key}\n" for one in good)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_count(good: Sequence[GoodImage], skipped: Sequence[str] = ()) -> None:
    """Whether there are images enough to learn from and to calibrate by.

    Raises:
        CategoryError: there are not; with the count, and the first of the `skipped`.
    """
    count = sum(one.calibrates for one in good)
    if count < MIN_IMAGES:
        also = f"; {len(skipped)} more cannot be used, such as {skipped[0]}" if skipped else ""
        raise CategoryError(
            f"{count} good images, at least {MIN_IMAGES} are needed: add good images to its "
            f"part train{also}"
        )


def decode_good(
    good: list[GoodImage], decoder: Preprocessor, group: ProcessGroup | None = None
) -> DecodedImages:
    """The images at the model's size, in the order given.

    Args:
        good: the images.
        decoder: makes pixels of the files.
        group: workers that each decode a part; None: this one decodes all.

    Raises:
        CategoryError: an image is another than the one that was hashed, or cannot be read now.
    """
    kept: list[tuple[GoodImage, Decoded, slice]] = []
    skipped: list[str] = []
    found = _decoded([one.sample for one in good], decoder, group or ProcessGroup())
    with tempfile.TemporaryFile(prefix="mrkd-tiles-") if decoder.tiles else nullcontext() as file:
        shape, num_rows = (decoder.size, decoder.size, 3), 0
        pixels = np.empty((0 if file else len(good), *shape), np.uint8)
        for one, decoded in zip(good, found, strict=True):
            if decoded.etag != one.digest:
                raise CategoryError(
                    f"{decoded.image_uri} changed while the category was read "
                    f"({decoded.error_message or 'other content'}): start again when it is complete"
                )
            if decoded.pixels is None:
                skipped.append(f"{decoded.image_uri}: {decoded.error_message}")
                continue
            squares = decoded.pixels.reshape(-1, *shape)
            rows = slice(num_rows, num_rows + len(squares))
            if file:
                file.write(squares.data)
            else:
                pixels[rows] = squares
            kept.append((one, replace(decoded, pixels=None), rows))
            num_rows = rows.stop
        if file and num_rows:
            # The map outlives the file, which has no name: the operating system pages the tiles of
            # large images, and a killed process leaves nothing behind.
            file.flush()
            pixels = np.asarray(np.memmap(file, np.uint8, "r+", shape=(num_rows, *shape)))
    images = DecodedImages([], [], pixels, skipped)
    for one, decoded, rows in kept:
        images.good.append(one)
        own = pixels[rows] if decoder.tiles else pixels[rows.start]
        images.decoded.append(replace(decoded, pixels=own))
    return images


def _decoded(
    samples: Sequence[Sample], decoder: Preprocessor, group: ProcessGroup
) -> Iterator[Decoded]:
    """The samples decoded, in order, each by one worker of the group."""
    if group.size == 1:
        yield from preprocess.decode_samples(samples, decoder)
        return
    step = group.size * preprocess.ahead_of(decoder)
    for start in range(0, len(samples), step):
        some = samples[start : start + step]
        mine = list(preprocess.decode_samples(some[group.rank :: group.size], decoder))
        parts = group.share(mine)
        for number in range(len(some)):
            yield parts[number % group.size][number // group.size]
