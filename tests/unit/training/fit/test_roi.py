"""What lies outside the region of interest enters no statistic and no loss of a training."""

import numpy as np
import pytest
import torch

from mrkd.config import RoiConfig
from mrkd.data.roi import Roi
from mrkd.model.anomaly_map import level_maps
from mrkd.model.feature_pairs import inside
from mrkd.model.loss import distillation_loss
from mrkd.training import fit
from mrkd.training.fit.step_loss import TrainingLoss
from mrkd.training.fit.validation import validation_loss
from tests.support.models import MODEL, small_model
from tests.support.trainings import FIT, features, fit_small, pixels


def left_half():
    outline = ((0.0, 0.0), (31.0, 0.0), (31.0, 63.0), (0.0, 63.0))
    return Roi.from_config(RoiConfig(polygons=(outline,)), size=(64, 64))


@pytest.fixture(scope="module")
def trained():
    return fit_small(small_model(roi=left_half()))[0]


def losses(model, rows):
    """Of drawn images, with nothing hidden: inside alone, and everywhere."""
    with torch.no_grad():
        pairs = model.pairs(features(model, *rows).batch(range(rows[1] - rows[0])))
        return [
            distillation_loss(pairs, anchor=MODEL.anchor, roi=roi).item()
            for roi in (model.level_roi, None)
        ]


def test_another_background_makes_no_other_model():
    elsewhere = pixels().copy()
    elsewhere[:, :, 40:] = 255 - elsewhere[:, :, 40:]
    one, other = (
        fit_small(small_model(roi=left_half()), images=images)[1].digest
        for images in (pixels(), elsewhere)
    )
    assert one == other != fit_small()[1].digest


def test_the_training_loss_is_that_of_the_pixels_inside():
    model = small_model(roi=left_half()).train()
    config = FIT.with_values({"mask_rate": 0.0})
    names = [str(n) for n in range(8)]
    loss = TrainingLoss(model, features(model, 0, 8), config, sample_ids=names, total_steps=6)
    alone, everywhere = losses(model, (0, 8))
    assert loss(0, np.arange(8)).item() == pytest.approx(alone, rel=1e-5)
    assert alone != pytest.approx(everywhere, rel=1e-2)


def test_the_held_out_loss_is_that_of_the_pixels_inside(trained):
    alone, everywhere = losses(trained, (8, 12))
    assert validation_loss(trained, features(trained, 8, 12)) == pytest.approx(alone, rel=1e-5)
    assert alone != pytest.approx(everywhere, rel=1e-2)


def test_features_are_standardised_over_the_pixels_inside(trained):
    levels = trained.normalise(features(trained, 0, 8).batch(range(8)))
    for level, roi in zip(levels, trained.all_level_roi, strict=True):
        assert inside(level, roi).mean((0, 2)).abs().max() < 0.02


def test_levels_are_calibrated_over_the_pixels_inside(trained):
    with torch.inference_mode():
        pairs = trained.pairs(features(trained, 8, 12).batch(range(4)))
    found = zip(level_maps(pairs, anchor=MODEL.anchor), trained.level_roi, strict=True)
    for n, (level, roi) in enumerate(found):
        mean, std = trained.get_buffer("level_mean")[n], trained.get_buffer("level_std")[n]
        standard = (inside(level, roi) - mean) / std
        assert abs(standard.mean()) < 1e-3
        assert abs(standard.std() - 1) < 1e-3


def test_features_of_another_region_are_refused():
    everywhere = features(small_model(), 0, 4)
    model = small_model(roi=left_half())
    with pytest.raises(ValueError, match="region of interest"):
        fit.fit(model, everywhere, everywhere, FIT, sample_ids=list("abcd"))
