"""Pairs of teacher and student features, which model, loss and maps share, and their distance.

Shape letters: B batch, C channels, h w a level's size.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class FeaturePairs:
    """Teacher and student features of one batch, level by level, shallow to deep.

    Args:
        teacher: per level `[B, C_l, h_l, w_l]`, normalised as the model's config says.
        student: student features of the teacher's shapes.

    Raises:
        ValueError: the two sides differ in number of levels or in a level's shape.
    """

    teacher: tuple[Tensor, ...]
    student: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        shapes = [tuple(t.shape) for t in self.teacher], [tuple(s.shape) for s in self.student]
        if shapes[0] != shapes[1]:
            raise ValueError(f"teacher features are {shapes[0]}, student features {shapes[1]}")


def cosine_distance(t_BChw: Tensor, s_BChw: Tensor, *, anchor: float = 0.0) -> Tensor:
    """One minus the cosine over channels, at each pixel, in float32.

    Args:
        t_BChw: teacher features of one level, any float dtype.
        s_BChw: student features of the same shape.
        anchor: appends a constant channel of `anchor * sqrt(C)` to both sides. Standardised
            features of an average patch lie near 0, where the direction is noise; the constant
            gives them one.

    Returns:
        float32 `[B, h, w]` in [0, 2] up to rounding.

    Source: paper section 3.8, spec section 6. Differs: the anchor is ours.
    """
    t_BChw, s_BChw = t_BChw.float(), s_BChw.float()
    constant = anchor * anchor * t_BChw.shape[1]
    dot = (t_BChw * s_BChw).sum(1) + constant
    squares = (t_BChw.square().sum(1) + constant) * (s_BChw.square().sum(1) + constant)
    # The floor sits under the root: the root of an exact 0 has no gradient.
    return 1 - dot / squares.clamp_min(1e-16).sqrt()


def inside(x_hw: Tensor, roi_hw: Tensor | None) -> Tensor:
    """The values at the pixels of a region, in reading order: `[..., h, w]` to `[..., n]`.

    Args:
        x_hw: features, distances or maps, whatever comes before their two last axes.
        roi_hw: 0 outside the region; None: every pixel is inside.
    """
    return x_hw.flatten(-2) if roi_hw is None else x_hw[..., roi_hw > 0]
