"""Device and precision of a process: chosen once, passed down, logged."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from mrkd.config import Device, Precision, ScoringPrecision
from mrkd.errors import DeviceError

NEEDED_SPEEDUP = 1.15
"""How much faster bfloat16 must be before its lost digits are worth it."""

BFLOAT16_SINCE = (8, 0)
"""Compute capability of the first CUDA devices whose tensor cores multiply bfloat16."""

ROUNDS = 5
"""Times that a step is measured in each precision, in turn. The fastest counts: other work on the
machine slows single steps down, it speeds none up."""

_DRIVER = Path("/proc/driver/nvidia/version")
_SMI = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
_SMI_S = 10.0


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
        measure: seconds of one step in a precision on the CPU; without it `auto` is float32. On
            CUDA nothing is measured.

    Raises:
        DeviceError: CUDA is asked for, or the process holds a GPU, and PyTorch cannot use it.
    """
    check_granted(device)
    has_cuda = torch.cuda.is_available()
    place = "cuda" if has_cuda and device != "cpu" else "cpu"
    # Else cuDNN's convolutions round what they take to TF32: scores move by 0.004 of their range.
    torch.backends.cudnn.allow_tf32 = False
    dtype, why = _precision(precision, place, measure)
    found = "available" if has_cuda else "no CUDA device"
    where = f"device {place} ({found if device == 'auto' else 'asked for'})"
    return Placement(torch.device(place), dtype, f"{where}, {why}")


def check_granted(device: Device) -> None:
    """Refuses to compute on the CPU where this process was given a GPU that PyTorch cannot use.

    A process holds a GPU where `CUDA_VISIBLE_DEVICES` names one, as Ray sets it.

    Args:
        device: device that is asked for; `cpu` is always usable.

    Raises:
        DeviceError: a GPU is held or asked for, and PyTorch finds none.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    is_held = named not in ("", "-1", "NoDevFiles")
    if device == "cpu" or not (is_held or device == "cuda") or torch.cuda.is_available():
        return
    why = f"this process holds GPU {named}" if is_held else "device is 'cuda'"
    raise DeviceError(
        f"{why} but PyTorch {torch.__version__} finds no CUDA device it can use: PyTorch is "
        f"{_cuda_version()}, the NVIDIA driver is {driver_version() or 'not found'}; install a "
        "driver for that CUDA version, or set the device to 'cpu'"
    )


def _cuda_version() -> str:
    return f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"


def driver_version() -> str:
    """Version of the NVIDIA driver, such as `570.86.15`; empty without a driver."""
    if _DRIVER.is_file():
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", _DRIVER.read_text())
        if found:
            return found[1]
    try:
        done = subprocess.run(_SMI, capture_output=True, text=True, timeout=_SMI_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = done.stdout.split()
    return lines[0] if done.returncode == 0 and lines else ""


def identity(device: Device) -> str:
    """Name of the GPU that this process computes on, which no other GPU has; empty on a CPU."""
    if device == "cpu" or not torch.cuda.is_available():
        return ""
    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)


def _precision(
    precision: Precision | ScoringPrecision,
    place: str,
    measure: Callable[[torch.dtype], float] | None,
) -> tuple[torch.dtype, str]:
    if precision != "auto":
        return getattr(torch, precision), f"{precision} (asked for)"
    if measure is None:
        return torch.float32, "float32 (nothing was measured)"
    if place == "cuda":
        # Not by timing: a step on a GPU that others share takes as long as they let it.
        capability = torch.cuda.get_device_capability()
        dtype = torch.bfloat16 if capability >= BFLOAT16_SINCE else torch.float32
        version = ".".join(map(str, capability))
        return dtype, f"{str(dtype).removeprefix('torch.')} (compute capability {version})"
    return _fastest(measure)


def _fastest(measure: Callable[[torch.dtype], float]) -> tuple[torch.dtype, str]:
    """The precision of the faster step, each measured in turn, by its fastest time."""
    for dtype in (torch.float32, torch.bfloat16):
        measure(dtype)  # warm: the first step of a precision allocates, and packs weights
    rounds = [(measure(torch.float32), measure(torch.bfloat16)) for _ in range(ROUNDS)]
    float32_s, bfloat16_s = (min(seconds) for seconds in zip(*rounds, strict=True))
    measured = (
        f"a step takes {1000 * float32_s:.1f} ms in float32, {1000 * bfloat16_s:.1f} ms in "
        f"bfloat16, which is taken from {NEEDED_SPEEDUP} times faster"
    )
    if float32_s >= NEEDED_SPEEDUP * bfloat16_s:
        return torch.bfloat16, f"bfloat16 ({measured})"
    return torch.float32, f"float32 ({measured})"
