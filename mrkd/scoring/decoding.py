"""Bytes to pixels at a model's size."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mrkd import datasets, images
from mrkd.config import Resize
from mrkd.datasets import Sample
from mrkd.errors import ImageDecodeError, StorageError
from mrkd.images import DecodeLimits, Geometry, Statistics

T = TypeVar("T")
U = TypeVar("U")

# Many requests to S3 are to be under way at once; OpenCV decodes without Python's lock.
_THREADS = 16


@dataclass(frozen=True)
class Decoded:
    """One image as read: pixels and what is known of them, or an error.

    Args:
        image_uri: as listed.
        etag: of the bytes.
        num_bytes: as read, or as listed where it could not be read.
        attributes: the template's other fields.
        pixels: uint8 `[S, S, 3]` RGB at the model's size; None for an error.
        geometry: how the original became `pixels`; None for an error.
        statistics: brightness, contrast and sharpness of the original; None for an error.
        error_kind: of `schema.ERROR_KINDS`; None for an image.
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


class Decoder:
    """Bytes to pixels at a model's size; whatever they are, it returns.

    Args:
        size: side of the model's input in pixels.
        resize: `stretch` or `letterbox`.
        limits: checked before decoding.
    """

    def __init__(self, size: int, resize: Resize, limits: DecodeLimits | None = None) -> None:
        self.size, self.resize, self.limits = size, resize, limits or DecodeLimits()

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
        pixels, geometry = images.resize(rgb, self.size, self.resize)
        return replace(read, pixels=pixels, geometry=geometry, statistics=images.statistics(rgb))


def decode_samples(samples: Iterable[Sample], decoder: Decoder) -> Iterator[Decoded]:
    """The samples read and decoded, in order; an unreadable one is an error like any other.

    Here `etag` is the sha256 of the file, empty for one that could not be read.
    """

    def decode(sample: Sample) -> Decoded:
        try:
            data = datasets.read_image(sample)
        except (StorageError, ImageDecodeError) as error:
            return Decoded(sample.image_uri, error_kind=error.kind, error_message=str(error))
        return decoder(sample.image_uri, data, etag=hashlib.sha256(data).hexdigest())

    return in_threads(decode, samples)


def in_threads(function: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """`map` over threads, in order, at most a few items ahead of whoever takes the results."""
    queue = iter(items)
    with ThreadPoolExecutor(_THREADS) as executor:
        while chunk := list(islice(queue, 4 * _THREADS)):
            yield from executor.map(function, chunk)
