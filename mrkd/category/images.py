"""The good images of one category: which stand on which side, and their pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mrkd import datasets, scoring
from mrkd.calibration import check_counts
from mrkd.config import FitConfig
from mrkd.datasets import Sample, Side
from mrkd.errors import CategoryError
from mrkd.scoring import Decoded, Decoder

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
        pixels: uint8 `[>= len(good), S, S, 3]`.
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


def read_good(samples: Sequence[Sample], config: FitConfig) -> list[GoodImage]:
    """The images with digest and side, ordered by side and content.

    By content, not by name: a renamed folder gives the same version, so it must give the same
    weights. An unreadable place ends the category: it may come back, and a model of what could be
    reached today would stand for all.
    """

    def look(sample: Sample) -> GoodImage:
        data = datasets.read_image(sample)
        key = datasets.side_key(sample, data)
        side = datasets.side(
            key,
            validation_share=config.validation_share,
            calibration_share=config.calibration_share,
        )
        return GoodImage(sample, hashlib.sha256(data).hexdigest(), key, side)

    found = scoring.in_threads(look, samples)
    return sorted(found, key=lambda one: (one.side, one.digest, one.key))


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
    pixels = np.empty((len(good), decoder.size, decoder.size, 3), np.uint8)
    images = DecodedImages([], [], pixels, [])
    found = scoring.decode_samples([one.sample for one in good], decoder)
    for one, decoded in zip(good, found, strict=True):
        if decoded.etag != one.digest:
            raise CategoryError(
                f"{decoded.image_uri} changed while the category was read "
                f"({decoded.error_message or 'other content'}): start again when it is complete"
            )
        if decoded.pixels is None:
            images.skipped.append(f"{decoded.image_uri}: {decoded.error_message}")
            continue
        place = pixels[len(images.good)]
        place[:] = decoded.pixels
        images.good.append(one)
        images.decoded.append(replace(decoded, pixels=place))
    return images
