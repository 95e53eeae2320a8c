"""Copies between the CPU and a GPU while it scores: pinned, one synchronisation a batch.

What a row needs of a map is computed on the GPU; a full map crosses only where it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrkd.data.preprocess import Decoded
from mrkd.model.detector import Joined
from mrkd.model.inference.scored import Measured, Scored


def to_gpu(pinned: Tensor, gpu: torch.device) -> Tensor:
    """A copy on a GPU, sent while earlier passes run there.

    Args:
        pinned: tensor in pinned memory, which torch's allocator gives out anew only after the copy.
        gpu: a CUDA device.
    """
    own, uploads = torch.cuda.current_stream(gpu), torch.cuda.Stream(gpu)
    with torch.cuda.stream(uploads):
        sent = pinned.to(gpu, non_blocking=True)
    own.wait_stream(uploads)
    sent.record_stream(own)
    return sent


def scored(
    batch: Sequence[Decoded],
    joined: Joined,
    reduced_BHW: Tensor,
    pixel_roi: Tensor | None,
    roi: NDArray[np.bool_] | None,
) -> Iterator[Scored]:
    """Starts the copies of a pass's results; the iterator waits for them once.

    Args:
        batch: images of the pass, at most as many as it has rows.
        joined: result of the pass.
        reduced_BHW: maps at the size that is stored, float32.
        pixel_roi: region of interest at input size, on the GPU; None: the whole image counts.
        roi: region of interest for `Scored`.
    """
    maps_BHW = joined.anomaly_map.float()[: len(batch)]
    figures = torch.cat(
        [joined.image_score.double()[: len(batch), None], measures(maps_BHW, batch, pixel_roi)], 1
    )
    sources = (figures, joined.raw_scores.float(), reduced_BHW)
    hosts = [torch.empty(t.shape, dtype=t.dtype, pin_memory=t.is_cuda) for t in sources]
    for host, source in zip(hosts, sources, strict=True):
        host.copy_(source, non_blocking=True)
    over = torch.cuda.Event() if maps_BHW.is_cuda else None
    if over:
        over.record()

    def results() -> Iterator[Scored]:
        if over:
            over.synchronize()
        # Copies: pinned memory is scarce, and rows may be kept.
        table, raw, reduced = (host.numpy().copy() for host in hosts)
        for n, image in enumerate(batch):
            score, peak, mean, finite = table[n].tolist()
            figure = Measured(peak, mean, bool(finite))
            yield Scored(image, maps_BHW[n], score, raw[n], reduced[n], roi, figure)

    return results()


def measures(maps_BHW: Tensor, batch: Sequence[Decoded], pixel_roi: Tensor | None) -> Tensor:
    """Peak, mean and whether all is finite of each map, as `Scored`: float64 `[B, 3]`.

    Args:
        maps_BHW: float32 maps.
        batch: the image of each map.
        pixel_roi: region of interest `[H, W]`, 0 outside; None: the image's part counts.
    """
    found = torch.empty(len(batch), 3, dtype=torch.float64, device=maps_BHW.device)
    found[:, 2] = maps_BHW.isfinite().flatten(1).all(1)
    if pixel_roi is not None:
        counted = maps_BHW[:, pixel_roi > 0]
        found[:, 0], found[:, 1] = counted.amax(1), counted.double().mean(1)
        return found
    boxes = [image.geometry.valid for image in batch if image.geometry is not None]
    for box in sorted(set(boxes)):
        x, y, width, height = box
        rows = torch.tensor([n for n, one in enumerate(boxes) if one == box], device=found.device)
        counted = maps_BHW[rows, y : y + height, x : x + width].flatten(1)
        found[rows, 0], found[rows, 1] = counted.amax(1).double(), counted.double().mean(1)
    return found
