"""Images of one part on both sides of a split: a model that remembers parts looks good there.

Two images are compared by their fine structure, what grinding, grain or handling has left on a
part: whatever all parts share, and how bright an image was taken, is taken off before. How alike
strangers come is read off mirrored images: no part is its own mirror image, and what
is symmetric about all parts is so in the mirror too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from mrkd import seeds
from mrkd.data import datasets, images
from mrkd.errors import ImageDecodeError
from mrkd.storage.thread_map import in_threads

# Of few images the mirrored ones say little: below the first no pair counts, whatever they say,
# and above the second every one.
_LEAST, _SAME = 0.4, 0.95
# Side of a thumbnail, and pixels of it above which structure is light and shape, which parts share.
_SIDE, _FINE = 96, 2.0
_CHUNK = 512
_TILE_SIDE = 32
# Images that are compared as they are; of more, projections of so many numbers.
_ENOUGH, _SHORT = 4096, 1024

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Leak:
    """An image that judges, and the one that trains and is most like it.

    Args:
        image_uri: URI of the image that judges.
        training_uri: URI of the one that trains.
        similarity: correlation of their fine structure, at most 1.
    """

    image_uri: str
    training_uri: str
    similarity: float


def find_leaks(trained: Sequence[str], judged: Sequence[str]) -> list[Leak]:
    """Pairs of images of one part, the most alike first, at most one for each that judges.

    A pair counts that is clearly more alike than any with a mirrored image that judges.
    Images that cannot be decoded are left out. Each takes 36 KiB until the end.

    Args:
        trained: URIs of the images of a category that train.
        judged: URIs of those that judge.

    Raises:
        StorageError: an image cannot be read.
    """
    train_uris, train_NSS = _structures(trained)
    judge_uris, judge_MSS = _structures(judged)
    if not train_uris or not judge_uris:
        return []
    own = _Own.of([train_NSS])
    train_ND = own(train_NSS)
    similarity_M, nearest_M = _nearest(own(judge_MSS), train_ND)
    least = _least(own, judge_MSS, train_ND)
    found = [
        Leak(judge_uris[row], train_uris[nearest_M[row]], float(similarity_M[row]))
        for row in np.flatnonzero(similarity_M > least)
    ]
    return sorted(found, key=lambda leak: (-leak.similarity, leak.image_uri))


def same_part(squares: Sequence[NDArray[np.uint8]]) -> NDArray[np.int64]:
    """Which images show one part, such as those of a burst: the number of its part for each.

    Images are linked that are as alike as a leak, and so is what is linked to the same image.

    Args:
        squares: squares of each image, uint8 `[T, S, S, 3]` RGB; images of different
            numbers of squares show different parts.

    Returns:
        int64 `[N]`, parts numbered from 0 in the order of their first image.
    """
    parts = np.arange(len(squares))
    for size in {len(one) for one in squares}:
        rows = np.array([n for n, one in enumerate(squares) if len(one) == size])
        # The others are made twice, in chunks: of 40,000 images all would take 1.4 GiB.
        first, others = list(_whole_structures(squares, rows[:_ENOUGH])), rows[_ENOUGH:]
        own = _Own.of(chain(first, _whole_structures(squares, others)))
        found = [own(some) for some in chain(first, _whole_structures(squares, others))]
        found_ND = np.concatenate(found)
        # Of many images some strangers are enough to know how alike strangers come.
        least = _least(own, np.concatenate(first), found_ND)
        for start in range(0, len(rows), _CHUNK):
            for alike in found_ND[start : start + _CHUNK] @ found_ND.T > least:
                joined = np.unique(parts[rows[alike]])
                if len(joined) > 1:
                    parts[np.isin(parts, joined)] = joined[0]
    # A part's number so far is that of its first image.
    return np.asarray(np.unique(parts, return_inverse=True)[1], np.int64)


@dataclass(frozen=True)
class _Own:
    """What all parts share (mean), and how far they vary (standard deviation), at each pixel."""

    shared_D: Floats
    spread_D: Floats
    projection: Floats | None
    """Matrix from long vectors to shorter ones that are about as alike."""

    @classmethod
    def of(cls, structures: Iterable[Floats]) -> Self:
        """Of the images that train, `[n, S, S]` by `[n, S, S]`."""
        count, total, square = 0, np.zeros(1), np.zeros(1)
        for some in structures:
            rows = some.reshape(len(some), -1).astype(np.float64)
            count, total, square = (
                count + len(rows), total + rows.sum(0), square + np.square(rows).sum(0)
            )  # fmt: skip
        mean = total / count
        spread = np.sqrt(np.maximum(square / count - mean * mean, 0)) + 1e-6
        projection = None
        if count > _ENOUGH:
            rng = seeds.stream(0, "structures")
            projection = rng.standard_normal((len(mean), _SHORT), np.float32)
        return cls(mean.astype(np.float32), spread.astype(np.float32), projection)

    def __call__(self, structures_NSS: Floats) -> Floats:
        """What is a part's own, float32 `[N, D]` of unit length."""
        rows = structures_NSS.reshape(len(structures_NSS), -1)
        own = _unit((rows - self.shared_D) / self.spread_D)
        return own if self.projection is None else _unit(own @ self.projection)


def _least(own: _Own, judge_MSS: Floats, train_ND: Floats) -> float:
    """How alike two images of one part are at least."""
    strangers = np.concatenate(
        [
            _nearest(own(mirrored), train_ND)[0]
            for mirrored in (judge_MSS[..., ::-1], judge_MSS[..., ::-1, ::-1])
        ]
    )
    # The highest of equally many strangers would lie above theirs half of the time.
    beyond = (strangers.max() - np.median(strangers)) / 2
    return min(max(_LEAST, float(strangers.max() + beyond)), _SAME)


def _nearest(judge_MD: Floats, train_ND: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Of each that judges the highest similarity, and to which it is: `[M]` both."""
    highest = np.zeros(len(judge_MD), np.float32)
    nearest = np.zeros(len(judge_MD), np.int64)
    for start in range(0, len(judge_MD), _CHUNK):
        rows = slice(start, start + _CHUNK)
        alike = judge_MD[rows] @ train_ND.T
        nearest[rows], highest[rows] = alike.argmax(1), alike.max(1)
    return highest, nearest


def _structures(uris: Sequence[str]) -> tuple[list[str], Floats]:
    """Those that can be decoded, and their fine structure: float32 `[N, S, S]`."""

    def look(uri: str) -> Floats | None:
        try:
            rgb = images.decode(datasets.read_image(uri))
        except ImageDecodeError:
            return None
        return _structure(rgb, _SIDE)

    looked = zip(uris, in_threads(look, uris), strict=True)
    found = [(uri, row) for uri, row in looked if row is not None]
    rows = [row for _, row in found]
    return [uri for uri, _ in found], np.stack(rows) if rows else np.zeros(
        (0, _SIDE, _SIDE), np.float32
    )


def _structure(rgb: NDArray[np.uint8], side: int) -> Floats:
    """An image's fine structure, of unit length: float32 `[side, side]`."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    small = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
    fine = small - cv2.GaussianBlur(small, (0, 0), _FINE)
    fine -= fine.mean()
    return np.asarray(fine / max(float(np.linalg.norm(fine)), 1e-6), np.float32)


def _whole_structures(
    squares: Sequence[NDArray[np.uint8]], rows: NDArray[np.int64]
) -> Iterator[Floats]:
    """Those of images in squares, by chunks of `[n, T, side, side]`."""
    side = _SIDE if all(len(squares[n]) == 1 for n in rows) else _TILE_SIDE
    for start in range(0, len(rows), _CHUNK):
        some = rows[start : start + _CHUNK]
        yield np.stack([[_structure(square, side) for square in squares[n]] for n in some])


def _unit(rows_ND: Floats) -> Floats:
    lengths = np.linalg.norm(rows_ND, axis=1, keepdims=True)
    return np.asarray(rows_ND / np.maximum(lengths, 1e-6), np.float32)
