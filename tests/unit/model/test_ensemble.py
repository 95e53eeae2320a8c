import numpy as np
import pytest
import torch

from mrkd.errors import ConfigError
from mrkd.model.cell_gaussian import Sums
from mrkd.model.detector import infer
from mrkd.model.ensemble import Ensemble, model_of
from mrkd.model.feature_cache import TeacherFeatures
from mrkd.model.mrkd import MRKD
from mrkd.model.teacher.teacher import teacher_of
from mrkd.training.fit import CrossFit, calibrate_ensemble, fit
from tests.support.models import FIT, MODEL
from tests.support.rivals import region


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    base = np.add.outer(np.arange(64), np.arange(64))[None, ..., None] + 60.0
    noise = rng.normal(0, 6, (count, 64, 64, 3)) + rng.normal(0, 4, (count, 1, 1, 3))
    return np.clip(base + noise, 0, 255).astype(np.uint8)


def with_spot(shown, tone=250):
    spoilt = shown.copy()
    spoilt[:, 20:36, 20:36] = tone
    return spoilt


@pytest.fixture(scope="module")
def both():
    """A student and cells of the same pictures."""
    config = MODEL.with_values({"cells": True, "image_score": "top_share_mean"})
    teacher = teacher_of(config, seed=0)
    model = model_of(config, teacher, seed=0)
    assert isinstance(model, Ensemble)
    assert model.student
    train, held_out = (
        TeacherFeatures(teacher, pictures(count, seed), budget_bytes=2**30)
        for count, seed in ((24, 0), (8, 1))
    )
    CrossFit(model, train, np.arange(24) % 4, seed=0)
    fit(model.student, train, held_out, FIT, sample_ids=[str(n) for n in range(24)])
    model.eval()
    calibrate_ensemble(model, held_out)
    return model


def scores(model, shown):
    return infer(model, torch.from_numpy(shown)).image_score


def test_a_config_without_cells_is_a_student_alone():
    teacher = teacher_of(MODEL, seed=0)
    assert isinstance(model_of(MODEL, teacher), MRKD)
    with pytest.raises(ConfigError, match="nothing would judge"):
        MODEL.with_values({"student": False})
    with pytest.raises(ConfigError, match="works beside a student alone"):
        MODEL.with_values({"cells": True, "gaussian": 1.0})


def test_what_is_odd_in_one_place_is_found_there(both):
    good, odd = pictures(4, seed=2), with_spot(pictures(4, seed=2))
    assert (scores(both, odd) > scores(both, good).max() + 1).all()
    anomaly_map = infer(both, torch.from_numpy(odd)).anomaly_map
    assert (anomaly_map[:, 24:32, 24:32].amin((1, 2)) > anomaly_map[:, :, 52:].amax((1, 2))).all()


@pytest.mark.parametrize("tone", [0, 128, 255])
def test_what_is_odd_everywhere_scores_above_all_good_pictures(both, tone):
    flat = np.full((1, 64, 64, 3), tone, np.uint8)
    assert scores(both, flat) > scores(both, pictures(16, seed=3)).max() + 1


def test_no_part_of_the_score_falls_when_a_cell_becomes_odder(both):
    found = both(torch.zeros(2, 3, 64, 64))
    before = both.join(both.maps(found)).image_score
    for name, distances in found.distances.items():
        odder = {**found.distances, name: distances + torch.rand_like(distances)}
        after = both.join(both.maps(found._replace(distances=odder))).image_score
        assert (after >= before).all()


def test_the_joint_map_and_score_are_sums_of_standardised_ones(both):
    found = both(torch.randn(2, 3, 64, 64))
    maps = both.maps(found)
    assert both.names == ("student", "middle", "deep", "fine")
    joined = both.join(maps)
    student, fine = (
        (maps[:, n] - both.map_mean[k]) / both.map_std[k] for k, n in enumerate((0, 3))
    )
    torch.testing.assert_close(joined.anomaly_map, student + fine)
    tops = (joined.raw_scores[:, :3] - both.score_mean) / both.score_std
    beyond = ((joined.raw_scores[:, 3:] - both.whole_bound) / both.whole_std).clamp_min(0)
    torch.testing.assert_close(joined.image_score, tops.sum(1) + beyond.sum(1))


def test_a_stored_state_gives_the_same_model(both):
    again = model_of(both.config, both.teacher, seed=9)
    again.load_trained_state({name: t.clone() for name, t in both.trained_state().items()})
    shown = torch.from_numpy(pictures(3, seed=4))
    for found, expected in zip(infer(again.eval(), shown), infer(both, shown), strict=True):
        assert torch.equal(found, expected)
    state = both.trained_state()
    with pytest.raises(RuntimeError, match=r"cells\.middle\.whitening"):
        again.load_trained_state(
            state | {"cells.middle.whitening": state["cells.middle.whitening"][:, :-1]}
        )


def test_under_autocast_the_student_alone_runs_in_fewer_digits(both):
    shown = torch.from_numpy(pictures(2, seed=5))
    exact = infer(both, shown)
    with torch.autocast("cpu", torch.bfloat16):
        rough = infer(both, shown)
    assert rough.image_score.dtype == torch.float32
    assert torch.equal(rough.raw_scores[:, 1:], exact.raw_scores[:, 1:])
    assert not torch.equal(rough.raw_scores[:, 0], exact.raw_scores[:, 0])


def test_a_row_has_the_same_score_in_any_company(both):
    shown = torch.from_numpy(pictures(4, seed=6))
    together, swapped = infer(both, shown), infer(both, shown[[0, 3, 2, 1]])
    assert torch.equal(together.image_score[[0, 3, 2, 1]], swapped.image_score)


def test_outside_a_region_nothing_counts():
    config = MODEL.with_values({"student": False, "cells": True})
    teacher = teacher_of(config, seed=0)
    model = model_of(config, teacher, region()).eval()
    assert isinstance(model, Ensemble)
    features = TeacherFeatures(teacher, pictures(12), budget_bytes=2**30, roi=model.pixel_roi)
    CrossFit(model, features, np.arange(12) % 3, seed=0)
    calibrate_ensemble(model, features)
    shown, spoilt = pictures(2, seed=7), pictures(2, seed=7)
    spoilt[:, :8] = 255
    before, after = (infer(model, torch.from_numpy(one)) for one in (shown, spoilt))
    assert torch.equal(before.image_score, after.image_score)
    assert (before.anomaly_map[:, :16] == 0).all()


def test_cells_without_a_fold_are_those_of_the_other_pictures():
    config = MODEL.with_values({"student": False, "cells": True})
    teacher = teacher_of(config, seed=0)
    shown, folds = pictures(15), np.arange(15) % 3
    features = TeacherFeatures(teacher, shown, budget_bytes=2**30)
    model = model_of(config, teacher).eval()
    assert isinstance(model, Ensemble)
    cross = CrossFit(model, features, folds, seed=0)
    assert (cross.folds, cross.has_folds) == ([0, 1, 2], True)
    without = cross.without(1)
    others = features.of(np.flatnonzero(folds != 1))
    for name in ("middle", "deep", "fine"):
        cells = model.grid(name)
        sums = Sums.over(cells, (model.normalise(levels) for levels in others.batches()))
        mean = cells.mean.clone()
        cells.fit(sums)
        assert int(without.grid(name).count) == int(cells.count) == 10
        assert torch.equal(without.grid(name).whitening, cells.whitening)
        assert not torch.equal(mean, cells.mean)
