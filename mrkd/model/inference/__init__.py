"""The one scoring path of nights, calibration and evaluation: an image's bytes to its row.

    bytes --Decoder--> Decoded --score_images--> Scored --Scorer--> row of schema.SCORES

Every forward pass has one fixed shape, short batches are padded: which images share a batch then
changes no bit of any of them. Where a model takes large images in tiles, a pass holds tiles, and
the map that is calibrated, scored and stored is the one they make together (`images.Tiling`).
"""

from mrkd.model.inference.forward import (
    BATCH_SIZE,
    batch_size_on,
    score_each,
    score_images,
    within,
)
from mrkd.model.inference.scored import Scored
from mrkd.model.inference.scorer import Scorer, score_rows

__all__ = [
    "BATCH_SIZE",
    "Scored",
    "Scorer",
    "batch_size_on",
    "score_each",
    "score_images",
    "score_rows",
    "within",
]
