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

from mrkd.training.fit.batch_step import num_micro_batches
from mrkd.training.fit.cross_fit import CrossFit
from mrkd.training.fit.loop import FitResult, Report, fit
from mrkd.training.fit.masks import feature_masks
from mrkd.training.fit.resume_state import Checkpoint, digest
from mrkd.training.fit.validation import calibrate_ensemble, calibrate_levels

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
