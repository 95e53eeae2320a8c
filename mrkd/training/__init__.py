"""Training of one category: `fit`, and what its steps are made of.

- `fit.py`: epochs, early stopping, checkpoints; the plain loop
- `batches.py`: one step, in micro-batches, by one worker or a group
- `masks.py`: what feature mask generation hides
- `state.py`: a training under way as one file
"""

from mrkd.training.batches import num_micro_batches
from mrkd.training.fit import FitResult, Report, fit
from mrkd.training.masks import feature_masks
from mrkd.training.state import Checkpoint, digest

__all__ = [
    "Checkpoint",
    "FitResult",
    "Report",
    "digest",
    "feature_masks",
    "fit",
    "num_micro_batches",
]
