"""Pictures of one part on both sides of a split: a model that remembers parts looks good there.

Two pictures are compared by their fine structure, what grinding, grain or handling has left on a
part: whatever all parts share, and how bright a picture was taken, is taken off before. How alike
strangers come is read off mirrored pictures: no part is its own mirror image, and what
is symmetric about all parts is so in the mirror too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mrkd import datasets, images
from mrkd.errors import ImageDecodeError
from mrkd.threads import in_threads

# Of few pictures the mirrored ones say little: below the first no pair counts, whatever they say,
# and above the second every one.
_LEAST, _SAME = 0.4, 0.95
# Side of a thumbnail, and pixels of it above which structure is light and shape, which parts share.
_SIDE, _FINE = 96, 2.0
_CHUNK = 512

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Leak:
    """A picture that judges, and the one that trains and is most like it.

    Args:
        image_uri: of the picture that judges.
        training_uri: of the one that trains.
        similarity: correlation of their fine structure, at most 1.
    """

    image_uri: str
    training_uri: str
    similarity: float


def find_leaks(trained: Sequence[str], judged: Sequence[str]) -> list[Leak]:
    """Pairs of pictures of one part, the most alike first, at most one for each that judges.

    A pair counts that is clearly more alike than any with a mirrored picture that judges.
    Pictures that cannot be decoded are left out. Each takes 36 KiB until the end.

    Args:
        trained: URIs of the pictures of a category that train.
        judged: of those that judge.

    Raises:
        StorageError: a picture cannot be read.
    """
    train_uris, train_ND = _structures(trained)
    judge_uris, judge_MD = _structures(judged)
    if not train_uris or not judge_uris:
        return []
    shared_D, spread_D = train_ND.mean(0), train_ND.std(0) + np.float32(1e-6)
    train_ND = _unit((train_ND - shared_D) / spread_D)
    squares = judge_MD.reshape(-1, _SIDE, _SIDE)
    itself, *mirrored = (
        _nearest(_unit((one.reshape(judge_MD.shape) - shared_D) / spread_D), train_ND)
        for one in (squares, squares[..., ::-1], squares[:, ::-1, ::-1])
    )
    similarity_M, nearest_M = itself
    strangers = np.concatenate([similarity for similarity, _ in mirrored])
    # The highest of equally many strangers would lie above theirs half of the time.
    beyond = (strangers.max() - np.median(strangers)) / 2
    least = min(max(_LEAST, float(strangers.max() + beyond)), _SAME)
    found = [
        Leak(judge_uris[row], train_uris[nearest_M[row]], float(similarity_M[row]))
        for row in np.flatnonzero(similarity_M > least)
    ]
    return sorted(found, key=lambda leak: (-leak.similarity, leak.image_uri))


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
    """Those that can be decoded, and their fine structure: float32 `[N, D]`, of unit length."""
    kept, rows = [], []
    for uri, row in zip(uris, _read(uris), strict=True):
        if row is not None:
            kept.append(uri)
            rows.append(row)
    return kept, _unit(np.stack(rows)) if rows else np.zeros((0, _SIDE**2), np.float32)


def _read(uris: Sequence[str]) -> Iterator[Floats | None]:
    def look(uri: str) -> Floats | None:
        try:
            rgb = images.decode(datasets.read_image(uri))
        except ImageDecodeError:
            return None
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
        small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        fine = small - cv2.GaussianBlur(small, (0, 0), _FINE)
        return np.asarray(fine - fine.mean(), np.float32).ravel()

    return in_threads(look, uris)


def _unit(rows_ND: Floats) -> Floats:
    lengths = np.linalg.norm(rows_ND, axis=1, keepdims=True)
    return np.asarray(rows_ND / np.maximum(lengths, 1e-6), np.float32)
