"""Device and precision of a process: chosen once, passed down, logged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mrkd.config import Device, Precision, ScoringPrecision
from mrkd.errors import ConfigError

NEEDED_SPEEDUP = 1.15
"""How much faster bfloat16 must be before its lost digits are worth it."""

_ROUNDS = 3
"""Rounds in a row that bfloat16 must win: on a busy machine the timing of one step may be wrong,
and a model must not depend on that."""


@dataclass(frozen=True)
class Placement:
    """Device and precision, and why these.

    Attributes:
        device: `cpu`, or the process's own `cuda`.
        precision: float32, or under autocast bfloat16 (training) or float16 (scoring); weights, and
            the teacher, stay float32.
        reason: one line for logs and model cards.
    """

    device: torch.device
    precision: torch.dtype
    reason: str


def choose(
    device: Device,
    precision: Precision | ScoringPrecision,
    *,
    measure: Callable[[torch.dtype], float] | None = None,
) -> Placement:
    """The placement of this process, where float32 is float32 from here on.

    Args:
        device: `auto` takes CUDA where there is one.
        precision: `auto` takes bfloat16 only where it is at least `NEEDED_SPEEDUP` times faster.
        measure: seconds of one step in a precision, warm; without it `auto` is float32.

    Raises:
        ConfigError: CUDA is asked for and there is none.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise ConfigError(
            "device is 'cuda' but PyTorch finds no CUDA device here: "
            "take 'auto' or 'cpu', or run where there is one"
        )
    place = "cuda" if has_cuda and device != "cpu" else "cpu"
    # Else cuDNN's convolutions round what they take to TF32: scores move by 0.004 of their range.
    torch.backends.cudnn.allow_tf32 = False
    dtype, why = _precision(precision, measure)
    found = "available" if has_cuda else "no CUDA device"
    where = f"device {place} ({found if device == 'auto' else 'asked for'})"
    return Placement(torch.device(place), dtype, f"{where}, {why}")


def _precision(
    precision: Precision | ScoringPrecision, measure: Callable[[torch.dtype], float] | None
) -> tuple[torch.dtype, str]:
    if precision != "auto":
        return getattr(torch, precision), f"{precision} (asked for)"
    if measure is None:
        return torch.float32, "float32 (nothing was measured)"
    for _ in range(_ROUNDS):
        float32_s, bfloat16_s = measure(torch.float32), measure(torch.bfloat16)
        faster = float32_s >= NEEDED_SPEEDUP * bfloat16_s
        if not faster:
            break
    measured = (
        f"a step takes {1000 * float32_s:.1f} ms in float32, {1000 * bfloat16_s:.1f} ms in "
        f"bfloat16, which is taken from {NEEDED_SPEEDUP} times faster"
    )
    if faster:
        return torch.bfloat16, f"bfloat16 ({measured})"
    return torch.float32, f"float32 ({measured})"
