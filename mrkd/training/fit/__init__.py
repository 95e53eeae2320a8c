"""Training of one category: `fit`, and the parts of its steps.

- `loop.py`: epochs, early stopping, checkpoints; the plain loop
- `precision.py`: device and precision
- `batch_step.py`: one step, in micro-batches, by one worker or a `process_group.py`
- `step_loss.py`: one forward pass on some of a batch's images
- `masks.py`: pixels that feature mask generation hides
- `cross_fit.py`: cell Gaussians, and those of all folds but one
- `validation.py`: loss and calibration by held-out images
- `resume_state.py`: a training under way as one file
"""

from mrkd.training.fit.batch_step import num_micro_batches
from mrkd.training.fit.cross_fit import CrossFit
from mrkd.training.fit.loop import FitResult, Report, fit
from mrkd.training.fit.resume_state import Checkpoint
from mrkd.training.fit.validation import calibrate_ensemble, calibrate_levels

__all__ = [
    "Checkpoint",
    "CrossFit",
    "FitResult",
    "Report",
    "calibrate_ensemble",
    "calibrate_levels",
    "fit",
    "num_micro_batches",
]
