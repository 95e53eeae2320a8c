"""fit: repeats under a seed, learns, stops early, keeps the best, and masks as it says."""

import dataclasses

import pytest
import torch

from mrkd.model.anomaly_map import level_maps
from mrkd.training import fit
from mrkd.training.fit.masks import feature_masks
from mrkd.training.fit.resume_state import digest
from tests.support.models import MODEL, small_model
from tests.support.trainings import FIT, features, fit_small


@pytest.fixture(scope="module")
def plain():
    """A training by `FIT` as it is: model and result."""
    return fit_small()


def digest_of(**values):
    """Of a training that differs in some fields."""
    return fit_small(**values)[1].digest


def test_two_runs_of_one_seed_have_one_digest_and_another_seed_another(plain):
    assert digest_of(seed=0) == plain[1].digest != digest_of(seed=1)


def test_training_lowers_the_held_out_loss_and_reports_each_epoch():
    rows = []
    _, result = fit_small(max_steps=30, call={"report": rows.append})
    assert result.history[-1]["validation_loss"] < 0.7 * result.history[0]["validation_loss"]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in rows] == result.history
    assert all(row["seconds"] > 0 for row in rows)
    assert result.steps == 30
    assert len(rows) == 15


def test_the_best_epochs_weights_are_kept():
    model, result = fit_small(max_steps=20, learning_rate=0.3)
    best = min(row["validation_loss"] for row in result.history)
    assert result.history[result.best_epoch]["validation_loss"] == best
    assert digest(model.trained_state()) == result.digest
    assert not model.training


def test_training_stops_when_the_held_out_loss_no_longer_falls():
    _, result = fit_small(max_steps=0, max_epochs=50, learning_rate=0.5, patience=2)
    assert len(result.history) == result.best_epoch + 3 < 50


def test_features_on_disk_give_the_same_weights_as_in_memory(plain):
    assert FIT.cache_bytes >= 2**30
    assert digest_of(cache_bytes=0) == plain[1].digest


def test_flips_are_drawn_by_sample_and_step_and_repeat(plain):
    assert FIT.augment == "none"
    first, again = digest_of(augment="flips"), digest_of(augment="flips")
    assert first == again != plain[1].digest


def test_precision_is_chosen_by_timing_and_leaves_the_weights_alone(plain):
    asked, timed = plain[1], fit_small(precision="auto")[1]
    assert "bfloat16" in timed.placement.reason
    if timed.placement.precision is torch.float32:
        assert timed.digest == asked.digest


def test_standardised_features_have_mean_zero_and_deviation_one():
    model, _ = fit_small(max_steps=1)
    for level in model.normalise(features(model, 0, 8).batch(range(8))):
        assert level.mean((0, 2, 3)).abs().max() < 0.02
        # Channels that never fire have no spread to bring to one.
        std = level.std((0, 2, 3))
        assert (((std - 1).abs() < 0.02) | (std < 1e-3)).all()


def test_calibrated_levels_have_mean_zero_and_deviation_one_on_held_out_images(plain):
    model, _ = plain
    with torch.inference_mode():
        levels = level_maps(
            model.pairs(features(model, 8, 12).batch(range(4))), anchor=MODEL.anchor
        )
    for n, m in enumerate(levels):
        standard = (m - model.get_buffer("level_mean")[n]) / model.get_buffer("level_std")[n]
        assert abs(standard.mean()) < 1e-3
        assert abs(standard.std() - 1) < 1e-3


def test_a_mask_hangs_on_seed_level_step_and_sample_alone():
    def masks(names, step=3, **values):
        config = dataclasses.replace(FIT, **values)
        return feature_masks([(8, 8), (4, 4)], config=config, rate=0.5, step=step, sample_ids=names)

    alone, together = masks(["a"]), masks(["b", "a"])
    for one, two in zip(alone, together, strict=True):
        assert torch.equal(one[0], two[1])
        assert not torch.equal(two[0], two[1])
    assert not torch.equal(alone[0], masks(["a"], step=4)[0])
    assert not torch.equal(alone[0], masks(["a"], seed=1)[0])


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.7])
@pytest.mark.parametrize("cell", [1, 3])
def test_masks_hide_the_stated_share_in_whole_cells(rate, cell):
    config = dataclasses.replace(FIT, mask_cell=cell)
    names = [str(n) for n in range(64)]
    (kept,) = feature_masks([(32, 32)], config=config, rate=rate, step=0, sample_ids=names)
    assert kept.shape == (64, 1, 32, 32)
    assert set(kept.unique().tolist()) <= {0.0, 1.0}
    assert abs((kept == 0).float().mean() - rate) < 0.02
    blocks = kept[..., :30, :30].unfold(2, cell, cell).unfold(3, cell, cell).flatten(4)
    assert (blocks == blocks[..., :1]).all()


def test_rescaled_masks_keep_the_mean():
    config = dataclasses.replace(FIT, mask_rescale=True)
    names = [str(n) for n in range(64)]
    (kept,) = feature_masks([(32, 32)], config=config, rate=0.4, step=0, sample_ids=names)
    assert abs(kept.mean() - 1) < 0.02


def test_too_few_images_or_names_are_refused():
    model = small_model()
    one, four = features(model, 0, 1), features(model, 0, 4)
    with pytest.raises(ValueError, match="1 training"):
        fit.fit(model, one, four, FIT, sample_ids=["a"])
    with pytest.raises(ValueError, match="names"):
        fit.fit(model, four, one, FIT, sample_ids=["a"])
