"""Pixels to what a backbone takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a process that only decodes is spared torch's import: seconds, and memory
    from torch import Tensor


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of the three colours a backbone was trained with, in 0 to 255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def to_tensor(pixels: Tensor, normalisation: Normalisation) -> Tensor:
    """Normalised images on the device of their pixels.

    Args:
        pixels: uint8 `[B, H, W, 3]` RGB.
        normalisation: the backbone's normalisation.

    Returns:
        float32 `[B, 3, H, W]`, channels last in memory.
    """
    values = pixels.float()
    mean, std = values.new_tensor(normalisation.mean), values.new_tensor(normalisation.std)
    return values.sub_(mean).div_(std).permute(0, 3, 1, 2)
