"""Bytes to pixels at a model's size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mrkd.config import ModelConfig, Resize
from mrkd.data import datasets, images
from mrkd.data.datasets import Sample
from mrkd.data.images import DecodeLimits, Geometry, Statistics, Tiling
from mrkd.errors import ImageDecodeError, StorageError
from mrkd.storage.thread_map import AHEAD, in_threads

# Of images that are cut into tiles: each takes hundreds of MB.
_TILED_AHEAD = 4


@dataclass(frozen=True)
class Decoded:
    """One image as read: pixels and what is known of them, or an error.

    Args:
        image_uri: URI as listed.
        etag: ETag of the bytes.
        num_bytes: size as read, or as listed where it could not be read.
        attributes: the template's other fields.
        pixels: uint8 RGB at the model's size: `[S, S, 3]`, or `[T, S, S, 3]` where the model takes
            an image in tiles; None for an error.
        geometry: position of the original on its map; None for an error.
        statistics: brightness, contrast and sharpness of the original; None for an error.
        error_kind: member of `schema.ERROR_KINDS`; None for an image.
        error_message: one line that says what to do; None for an image.
    """

    image_uri: str
    etag: str = ""
    num_bytes: int = 0
    attributes: Mapping[str, str] = field(default_factory=dict)
    pixels: NDArray[np.uint8] | None = None
    geometry: Geometry | None = None
    statistics: Statistics | None = None
    error_kind: str | None = None
    error_message: str | None = None


@dataclass(frozen=True)
class Preprocessor:
    """Bytes to pixels at a model's size; whatever they are, it returns.

    Args:
        size: side of the model's input in pixels.
        resize: `stretch` or `letterbox`.
        limits: checked before decoding; None: the defaults.
        tiles: side of the squares that an image is cut into, in original pixels; 0: it is not.
        overlap: overlap of neighbouring tiles.
    """

    size: int
    resize: Resize
    limits: DecodeLimits | None = None
    tiles: int = 0
    overlap: int = 0

    @classmethod
    def of(cls, model: ModelConfig, limits: DecodeLimits | None = None) -> Self:
        """The decoder of a model."""
        return cls(model.image_size, model.resize, limits, model.tiles, model.overlap)

    def fit(self, rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Geometry]:
        """An image, uint8 `[H0, W0, 3]`, as `Decoded.pixels` and `Decoded.geometry`."""
        if not self.tiles:
            return images.resize(rgb, self.size, self.resize)
        tiling = self.tiling((rgb.shape[0], rgb.shape[1]))
        return tiling.cut(rgb), tiling.geometry

    def tiling(self, original: tuple[int, int]) -> Tiling:
        """How an image of that size (H0, W0) is cut."""
        return Tiling(original, self.tiles, self.overlap, self.size, self.resize)

    def num_bytes(self, num_images: int) -> int | None:
        """Of the pixels of so many images; None with tiles, whose number only reading tells."""
        return None if self.tiles else num_images * self.size**2 * 3

    def __call__(
        self,
        image_uri: str,
        data: bytes,
        *,
        etag: str = "",
        attributes: Mapping[str, str] | None = None,
    ) -> Decoded:
        """The decoded image, or its error."""
        read = Decoded(image_uri, etag, len(data), attributes or {})
        try:
            rgb = images.decode(data, self.limits)
        except ImageDecodeError as error:
            return replace(read, error_kind=error.kind, error_message=error.message)
        pixels, geometry = self.fit(rgb)
        return replace(read, pixels=pixels, geometry=geometry, statistics=images.statistics(rgb))


def decode_samples(samples: Iterable[Sample], decoder: Preprocessor) -> Iterator[Decoded]:
    """The samples read and decoded, in order; an unreadable one is an error like any other.

    Here `etag` is the sha256 of the file, empty for one that could not be read.
    """

    def decode(sample: Sample) -> Decoded:
        try:
            data = datasets.read_image(sample)
        except (StorageError, ImageDecodeError) as error:
            return Decoded(sample.image_uri, error_kind=error.kind, error_message=str(error))
        return decoder(sample.image_uri, data, etag=hashlib.sha256(data).hexdigest())

    return in_threads(decode, samples, ahead=ahead_of(decoder))


def ahead_of(decoder: Preprocessor) -> int:
    """How many decoded images may wait in memory."""
    return _TILED_AHEAD if decoder.tiles else AHEAD


def map_policy(model: ModelConfig) -> Resize:
    """How an image lies on its stored map: one that was taken in tiles fills it."""
    return "stretch" if model.tiles else model.resize
