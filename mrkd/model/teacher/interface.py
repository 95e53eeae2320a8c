"""Interface of every teacher's network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """A classifier that gives its inner levels.

    Attributes:
        taps: blocks whose outputs are the levels; empty where there is only one choice.
        channels: C_l of each level, shallow to deep.
        strides: input pixels per level pixel.
        last_tap: the last block; None where there is only one choice.
    """

    taps: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    last_tap: int | None

    @abstractmethod
    def levels(self, images: Tensor) -> list[Tensor]:
        """Features `[B, C_l, h_l, w_l]`, shallow to deep, of float32 `[B, 3, H, W]`."""

    @abstractmethod
    def drop_head(self) -> Self:
        """This network without the layers past its deepest level."""
