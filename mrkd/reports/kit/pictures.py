"""Thumbnails and heat maps as data URIs; regions and ground truth as SVG shapes over them."""

from __future__ import annotations

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

THUMBNAIL_SIDE = 220
# A thumbnail at quality 80 is 5 to 12 KB, a heat map of 64 x 64 in 24 steps 1 to 3 KB.
_JPEG_QUALITY = 80
_STEPS = 24

# Amber and magenta differ for all common kinds of colour blindness, and differ from grey, dark and
# bright images. (position on the scale, red, green, blue, opacity)
_RAMP = np.array(
    [
        (0.0, 255, 176, 0, 0.0),
        (0.4, 255, 176, 0, 0.0),
        (1.0, 255, 176, 0, 0.5),
        (2.0, 220, 38, 127, 0.8),
    ]
)


def thumbnail(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image with its longer side at most 220 pixels, uint8 `[h, w, 3]`."""
    height, width = rgb.shape[:2]
    scale = THUMBNAIL_SIDE / max(height, width)
    if scale >= 1:
        return rgb
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def jpeg_uri(rgb: NDArray[np.uint8]) -> str:
    """The image as a data URI of a JPEG."""
    return _data_uri("jpeg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])


def heat_uri(anomaly_map: NDArray[np.float32], *, low: float, high: float) -> str:
    """The map as a data URI of a transparent PNG.

    Args:
        anomaly_map: float32 `[h, w]`.
        low: the usual value; the PNG is clear up to well above it.
        high: the pixel threshold, where amber is full; magenta begins as far above it again.
    """
    span = max(high - low, 1e-12)
    steps = np.clip((anomaly_map - low) / span / _RAMP[-1, 0] * _STEPS, 0, _STEPS)
    # Few steps compress to a third; the browser smooths between the map's pixels anyway.
    position = np.round(np.nan_to_num(steps, nan=_STEPS)) / _STEPS * _RAMP[-1, 0]
    red, green, blue, opacity = (
        np.interp(position, _RAMP[:, 0], _RAMP[:, c]) for c in (1, 2, 3, 4)
    )
    bgra = np.stack([blue, green, red, opacity * 255], axis=-1).round().astype(np.uint8)
    return _data_uri("png", bgra, [cv2.IMWRITE_PNG_COMPRESSION, 9])


def outline(gt_mask: NDArray[np.bool_], *, height: int, width: int) -> str:
    """The mask's borders as an SVG path over an image of `height` x `width` original pixels."""
    found, _ = cv2.findContours(gt_mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_TC89_KCOS)
    scale = np.array([width / gt_mask.shape[1], height / gt_mask.shape[0]])
    # A contour runs through the pixels' centres.
    paths = [(contour[:, 0, :] + 0.5) * scale for contour in found]
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in path) + "Z" for path in paths)


def _data_uri(kind: str, pixels: NDArray[np.uint8], options: list[int]) -> str:
    done, data = cv2.imencode(f".{kind}", pixels, options)
    assert done
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode('ascii')}"
