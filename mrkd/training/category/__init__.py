"""One category from its images to a promoted model.

read and hash -> version (stop here if it is complete) -> decode -> fit -> calibrate -> save -> gate
-> promote or hold
"""

from mrkd.training.category.baseline import fit_nearest
from mrkd.training.category.result import CategoryResult
from mrkd.training.category.train import assist, train_category
from mrkd.training.category.trial_hook import TrialHook
from mrkd.training.category.up_to_date import (
    good_samples,
    inputs_of_all,
    standing,
    steps_of,
    work_of,
)

__all__ = [
    "CategoryResult",
    "TrialHook",
    "assist",
    "fit_nearest",
    "good_samples",
    "inputs_of_all",
    "standing",
    "steps_of",
    "train_category",
    "work_of",
]
