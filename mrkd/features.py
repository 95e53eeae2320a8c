"""The one type that model, loss and maps share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class FeaturePairs:
    """Teacher and student features of one batch, level by level, shallow to deep.

    Args:
        teacher: per level `[B, C_l, h_l, w_l]`, normalised as the model's config says.
        student: the same shapes.

    Raises:
        ValueError: the two sides differ in number of levels or in a level's shape.
    """

    teacher: tuple[Tensor, ...]
    student: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        shapes = [tuple(t.shape) for t in self.teacher], [tuple(s.shape) for s in self.student]
        if shapes[0] != shapes[1]:
            raise ValueError(f"teacher features are {shapes[0]}, student features {shapes[1]}")
