"""Training of one category: `fit`, and what its steps are made of.

- `fit.py`: epochs, early stopping, checkpoints; the plain loop
- `placement.py`: device and precision
- `batches.py`: one step, in micro-batches, by one worker or a group
- `loss.py`: one forward pass on some of a batch's images
- `masks.py`: what feature mask generation hides
- `cross_fit.py`: cell Gaussians, and those of all folds but one
- `held_out.py`: what the held-out images say
- `state.py`: a training under way as one file
"""

from mrkd.training.batches import num_micro_batches
from mrkd.training.cross_fit import CrossFit
from mrkd.training.fit import FitResult, Report, fit
from mrkd.training.held_out import calibrate_ensemble, calibrate_levels
from mrkd.training.masks import feature_masks
from mrkd.training.state import Checkpoint, digest

__all__ = [
    "Checkpoint",
    "CrossFit",
    "FitResult",
    "Report",
    "calibrate_ensemble",
    "calibrate_levels",
    "digest",
    "feature_masks",
    "fit",
    "num_micro_batches",
]
