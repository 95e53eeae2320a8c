"""A training under way as one file, from which it goes on to the same bits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mrkd.errors import ArtefactError
from mrkd.model.mrkd import MRKD

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Checkpoint:
    """A training at the end of an epoch; random draws depend on names and need no state.

    Args:
        model: trained weights and buffers.
        best: weights and buffers of the best epoch.
        moments: Adam's state, by `<parameter>.<step, exp_avg, exp_avg_sq>`.
        step: optimiser steps taken.
        best_epoch: the epoch of `best`.
        history: one row an epoch, as `FitResult.history`.
        precision: precision of the forward passes, as it was measured or asked for.
        num_micro_batches: micro-batches of a batch, more than asked for after a lack of memory.
    """

    model: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    step: int
    best_epoch: int
    history: list[dict[str, float]]
    precision: Literal["float32", "bfloat16"]
    num_micro_batches: int

    def to_bytes(self) -> bytes:
        """A safetensors file: no pickle, and its own sha256 in its header."""
        tensors = {
            f"{part}.{name}": tensor.detach().cpu().contiguous()
            for part in ("model", "best", "moments")
            for name, tensor in getattr(self, part).items()
        }
        facts = json.dumps(
            {
                name: getattr(self, name)
                for name in ("step", "best_epoch", "history", "precision", "num_micro_batches")
            }
        )
        header = {"facts": facts, "sha256": _seal(tensors, facts)}
        return safetensors.torch.save(tensors, header)

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Self:
        """The checkpoint of a file's content; errors name `where` as its URI.

        Raises:
            ArtefactError: it is not what was written.
        """
        parts: dict[str, Any] = {"model": {}, "best": {}, "moments": {}}
        try:
            # The header of a safetensors file: a length, then JSON.
            length = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + length])["__metadata__"]
            tensors, facts = safetensors.torch.load(data), header["facts"]
            intact = _seal(tensors, facts) == header["sha256"]
            for key, tensor in tensors.items():
                part, _, name = key.partition(".")
                parts[part][name] = tensor
            found = cls(**parts, **json.loads(facts))
        # TypeError: another release's fields, or a header that is not a table.
        except (safetensors.SafetensorError, ValueError, LookupError, TypeError) as error:
            raise ArtefactError(f"{where} is not a checkpoint ({error}): delete it") from error
        if not intact:
            raise ArtefactError(f"{where} is damaged, it is not what was written: delete it")
        return found


def copy_of(model: MRKD) -> dict[str, Tensor]:
    """A copy of all parameters and buffers that training changes."""
    return {name: tensor.clone() for name, tensor in model.trained_state().items()}


def digest(state: Mapping[str, Tensor]) -> str:
    """Sha256 over names, shapes and bytes of a state, in the order of its names."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def moments_of(
    optimiser: torch.optim.Optimizer, named: Mapping[str, torch.nn.Parameter]
) -> dict[str, Tensor]:
    """A copy of Adam's state of each parameter that has one."""
    return {
        f"{name}.{moment}": optimiser.state[parameter][moment].clone()
        for name, parameter in named.items()
        if parameter in optimiser.state
        for moment in _MOMENTS
    }


def put_moments(
    optimiser: torch.optim.Optimizer,
    named: Mapping[str, torch.nn.Parameter],
    moments: Mapping[str, Tensor],
) -> None:
    """Sets Adam's state to the one that `moments_of` took, laid out in memory like its parameters.

    The fused optimiser walks through both side by side, whatever their strides.
    """
    for name, parameter in named.items():
        if f"{name}.step" not in moments:
            continue
        state = {m: torch.empty_like(parameter) for m in _MOMENTS if m != "step"}
        for moment, tensor in state.items():
            tensor.copy_(moments[f"{name}.{moment}"])
        step = moments[f"{name}.step"].to(parameter.device, copy=True)
        optimiser.state[parameter] = {"step": step, **state}


def _seal(tensors: Mapping[str, Tensor], facts: str) -> str:
    return hashlib.sha256(f"{digest(tensors)} {facts}".encode()).hexdigest()
