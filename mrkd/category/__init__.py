"""One category from its images to a promoted model.

read and hash -> version (stop here if it stands) -> decode -> fit -> calibrate -> save -> gate ->
promote or hold
"""

from mrkd.category.baseline import fit_nearest
from mrkd.category.probe import Probe
from mrkd.category.result import CategoryResult
from mrkd.category.standing import good_samples, inputs_of_all, standing, steps_of, work_of
from mrkd.category.train import assist, train_category

__all__ = [
    "CategoryResult",
    "Probe",
    "assist",
    "fit_nearest",
    "good_samples",
    "inputs_of_all",
    "standing",
    "steps_of",
    "train_category",
    "work_of",
]
