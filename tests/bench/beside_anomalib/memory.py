"""Peak memory of training and of scoring, each in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import torch

from mrkd.model.detector import infer
from tests.bench.beside_anomalib.ours import (
    BATCH,
    OURS,
    THEIRS,
    Figures,
    fitting,
    model_of,
    teacher_of,
)
from tests.bench.beside_anomalib.pictures import pixels_of, tensor_of

LIMIT_S = 600
"""Of one process; nothing is known of a peak before the end."""


def memory_figures(backbone: str, weights: str) -> Iterator[Figures]:
    """Peak RSS of two training steps, or of two batches scored."""
    context = multiprocessing.get_context("spawn")
    for task in ("training", "scoring"):
        for arm in (THEIRS, *OURS):
            row: Figures = {"figure": f"peak memory, {task}", "arm": arm}
            with context.Pool(1) as pool:
                run = pool.apply_async(_peak, (backbone, weights, arm, task))
                try:
                    row |= run.get(timeout=LIMIT_S)
                except multiprocessing.TimeoutError:
                    row["note"] = f"cut off after {LIMIT_S} s"
            yield row


def _peak(backbone: str, weights: str, arm: str, task: str) -> Figures:
    teacher = teacher_of(backbone, weights)
    pixels = pixels_of(None, 2 * BATCH)
    if arm == THEIRS:
        # Here: our memory is measured without anomalib's modules.
        from tests.bench.beside_anomalib.side import Reverse

        them, batches = Reverse(teacher), tensor_of(pixels, teacher).split(BATCH)
        before = _peak_mib()
        for batch in batches:
            them.step(batch) if task == "training" else them.score(batch)
    else:
        model = model_of(teacher, arm)
        before = _peak_mib()
        if task == "training":
            fitting(model, pixels, cached=False)("float32")
        else:
            for part in torch.from_numpy(pixels).split(BATCH):
                infer(model.eval(), part)
    return {"peak_mib": _peak_mib(), "before_mib": before}


def _peak_mib() -> float:
    """Of this process alone: what `getrusage` tells, it takes over from the one that started it."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) / 1024
