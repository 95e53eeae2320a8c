"""One category from its images to a promoted model.

read and hash -> version (stop here if it stands) -> decode -> fit -> calibrate -> save -> promote
"""

from mrkd.category.train import CategoryResult, train_category

__all__ = ["CategoryResult", "train_category"]
