"""Image files to pixels, pixels to the model's square, and that to a tensor."""

from __future__ import annotations

from mrkd.data.images.decode import STATISTICS, DecodeLimits, Statistics, decode, statistics
from mrkd.data.images.geometry import Geometry, Policy, resize, resize_mask, to_gt_mask, to_mask
from mrkd.data.images.headers import Header, read_header
from mrkd.data.images.tensors import Normalisation, to_tensor
from mrkd.data.images.tiles import Tiling

__all__ = [
    "STATISTICS",
    "DecodeLimits",
    "Geometry",
    "Header",
    "Normalisation",
    "Policy",
    "Statistics",
    "Tiling",
    "decode",
    "read_header",
    "resize",
    "resize_mask",
    "statistics",
    "to_gt_mask",
    "to_mask",
    "to_tensor",
]
