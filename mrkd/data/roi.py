"""Regions of interest: where the part itself lies in every image of a category.

Fixtures, labels and the conveyor change from day to day and are not defects. Where a region is
drawn, what lies outside is grey before the teacher sees it, enters neither loss nor statistics,
and is zero in the map: it cannot move a score, but for what shares a pixel of the model's square
with the part.

Grey, because loss and map alone do not keep it out: receptive fields and the code of the whole
image let it in. Solar cells (ELPV mono, 128 px, 40 held-out ones), inspected in their middle,
with a label stuck on 12 pixels outside: scores move by 7.8 of their standard deviations without the
grey, all above the highest of the good cells. With it they do not move, and synthetic defects in
the middle are found as well as before (image AUROC 0.951, without 0.950).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from mrkd import storage
from mrkd.config import RoiConfig
from mrkd.data import images
from mrkd.data.images import Geometry
from mrkd.errors import ArtefactError, CategoryError, ConfigError, ImageDecodeError


@dataclass(frozen=True, eq=False)
class Roi:
    """A region of interest, drawn once for images of one size.

    Args:
        mask: bool `[H0, W0]` at the images' original size, True where the part is inspected.
        source: config that it was made from.
    """

    mask: NDArray[np.bool_]
    source: RoiConfig

    @classmethod
    def from_config(cls, config: RoiConfig, *, size: tuple[int, int]) -> Self | None:
        """The region that a config draws; None where it draws none.

        Args:
            config: a mask image, or outlines; the pixels that an outline runs through are inside.
            size: (H0, W0) of the category's images.

        Raises:
            CategoryError: the mask is not an image or of another size, an outline leaves the image,
                or nothing is inside.
            StorageError: the mask cannot be read.
        """
        if not config.mask and not config.polygons:
            return None
        mask = _read(config.mask, size) if config.mask else _filled(config.polygons, size)
        if not mask.any():
            raise CategoryError(
                f"{_named(config)} holds no pixel of the {_text(size)} images: draw it where the "
                "part is"
            )
        return cls(mask, config)

    @property
    def size(self) -> tuple[int, int]:
        """(H0, W0) of the images that it is drawn for."""
        height, width = self.mask.shape
        return height, width

    def at(self, geometry: Geometry) -> NDArray[np.bool_]:
        """The region in the model's square: bool `[H, W]`, False on letterbox borders.

        Raises:
            CategoryError: it is so small that no pixel of the square shows it.
            ValueError: the image is of another size.
        """
        inside = images.resize_mask(self.mask, geometry)
        if not inside.any():
            raise CategoryError(
                f"{_named(self.source)} is lost where the {_text(self.size)} images become "
                f"{_text(geometry.size)}: draw it larger or raise model.image_size"
            )
        return inside

    def misfit(self, original: tuple[int, int]) -> str:
        """Why an image of that size (H0, W0) cannot be inspected; empty where it can be."""
        if original == self.size:
            return ""
        return (
            f"the image is {_text(original)}, its category's region of interest is drawn for "
            f"{_text(self.size)}: send images of that size, or train with a region for this one"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, the mask as a PNG of one bit in base64."""
        height, width = self.size
        grey = self.mask.astype(np.uint8) * 255
        _, png = cv2.imencode(".png", grey, [cv2.IMWRITE_PNG_BILEVEL, 1])
        return {
            "height": height,
            "width": width,
            "png": base64.b64encode(png.tobytes()).decode(),
            "source": self.source.to_dict(),
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """The region that `to_json` gave.

        Raises:
            ArtefactError: it is not what this version of mrkd writes.
        """
        try:
            mask = images.to_mask(images.decode(base64.b64decode(raw["png"], validate=True)))
            source = RoiConfig.from_dict(raw["source"])
            whole = mask.shape == (raw["height"], raw["width"])
        except (KeyError, TypeError, ValueError, ConfigError, ImageDecodeError) as error:
            raise ArtefactError(
                f"a region of interest does not fit this version of mrkd: {error}"
            ) from error
        if not whole:
            raise ArtefactError(
                f"a region of interest is {_text(mask.shape)}, it was stored as "
                f"{raw['width']}x{raw['height']}"
            )
        return cls(mask, source)


def _read(uri: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    try:
        mask = images.to_mask(images.decode(storage.read(uri)))
    except ImageDecodeError as error:
        raise CategoryError(f"roi.mask {uri!r} cannot be read: {error}") from error
    if mask.shape != size:
        raise CategoryError(
            f"roi.mask {uri!r} is {_text(mask.shape)}, the images are {_text(size)}: draw it on "
            "one of them"
        )
    return mask


def _filled(
    polygons: Sequence[Sequence[Sequence[float]]], size: tuple[int, int]
) -> NDArray[np.bool_]:
    height, width = size
    grey = np.zeros(size, np.uint8)
    for number, polygon in enumerate(polygons):
        for x, y in polygon:
            if not (0 <= x <= width and 0 <= y <= height):
                raise CategoryError(
                    f"roi.polygons[{number}] has the point [{x:g}, {y:g}], the images are "
                    f"{_text(size)}: points are [x, y] in pixels of the originals"
                )
        # One call each: where two outlines of one call overlap, OpenCV leaves a hole.
        cv2.fillPoly(grey, [np.rint(np.array(polygon)).astype(np.int32)], (255,))
    return np.asarray(grey > 0)


def _named(config: RoiConfig) -> str:
    return f"roi.mask {config.mask!r}" if config.mask else "roi.polygons"


def _text(size: tuple[int, ...]) -> str:
    """Width and height in words, as `128x64`."""
    height, width = size
    return f"{width}x{height}"
