import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf

from mrkd.errors import ConfigError
from mrkd.model.detector import infer
from mrkd.model.feature_cache import TeacherFeatures
from mrkd.model.feature_pairs import inside
from mrkd.model.mrkd import build
from mrkd.model.teacher.teacher import load_teacher
from mrkd.training import fit
from mrkd.training.fit.validation import fit_gaussian
from tests.support.models import FIT, MODEL

CONFIG = MODEL.with_values({"gaussian": 2.0})


@pytest.fixture(scope="module")
def teacher():
    return load_teacher(MODEL.backbone, taps=MODEL.taps, weights="random")


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    base = rng.normal(120, 20, (count, 1, 1, 3))
    return np.clip(base + rng.normal(0, 5, (count, 64, 64, 3)), 0, 255).astype(np.uint8)


def fitted(teacher, count=40, **values):
    model = build(CONFIG.with_values(values), teacher, seed=0)
    train = TeacherFeatures(teacher, pictures(count), budget_bytes=2**30)
    held_out = TeacherFeatures(teacher, pictures(12, seed=1), budget_bytes=2**30)
    ids = [str(n) for n in range(count)]
    fit.fit(model, train, held_out, FIT, sample_ids=ids)
    return model.eval(), train, held_out


@pytest.mark.parametrize("count", [20, 200])
def test_the_distance_is_mahalanobis_under_ledoit_and_wolfs_covariance(teacher, count):
    model, train, _ = fitted(teacher, count)
    x = torch.cat([inside(model.normalise(f)[-1], None).mean(2) for f in train.batches()]).numpy()
    covariance, _ = ledoit_wolf(x.astype(np.float64))
    away = x[:5] - x.mean(0)
    inverse = np.linalg.inv(covariance + 1e-6 * np.eye(len(covariance)))
    expected = np.sqrt(np.einsum("nc,cd,nd->n", away, inverse, away))
    found = model.gaussian_distance(model.pairs(train.batch(range(5))))
    assert found.numpy() == pytest.approx(expected, rel=1e-2)


def test_fewer_pictures_than_channels_still_have_a_distance(teacher):
    model, train, _ = fitted(teacher, count=8)
    distance = model.gaussian_distance(model.pairs(train.batch(range(8))))
    assert torch.isfinite(distance).all()
    assert (distance > 0).all()


def test_pictures_that_are_all_alike_do_not_break_it(teacher):
    model = build(CONFIG, teacher, seed=0).eval()
    same = np.repeat(pictures(1), 8, axis=0)
    fit_gaussian(model, TeacherFeatures(teacher, same, budget_bytes=2**30))
    assert torch.isfinite(model.get_buffer("gaussian_whitening")).all()


def test_score_is_the_maps_and_the_gaussians_each_by_held_out_spread(teacher):
    model, _, held_out = fitted(teacher)
    _, scores, _ = infer(model, torch.from_numpy(held_out.pixels))
    assert scores.mean().item() == pytest.approx(0, abs=0.2)
    pairs = model.pairs(held_out.batch(range(12)))
    of_map = model.map_score(model.maps(pairs))
    gaussian = model.gaussian_distance(pairs)

    def standard(values):
        return (values - values.mean()) / values.std()

    expected = standard(of_map) + 2.0 * standard(gaussian)
    # Features of the cache are float16.
    assert torch.allclose(scores, expected, atol=0.1)


def test_a_picture_of_another_kind_scores_higher_by_it(teacher):
    model, _, _ = fitted(teacher)
    shown = np.concatenate([pictures(1, seed=3), np.zeros((1, 64, 64, 3), np.uint8)])
    _, scores, _ = infer(model, torch.from_numpy(shown))
    assert scores[1] > scores[0] + 3


def test_it_is_stored_with_the_model_and_the_score_is_the_same(teacher, tmp_path):
    model, _, held_out = fitted(teacher)
    state = {key: value.clone() for key, value in model.trained_state().items()}
    assert {"gaussian_mean", "gaussian_whitening", "score_mean", "score_std"} <= state.keys()
    again = build(CONFIG, teacher, seed=9).eval()
    again.load_trained_state(state)
    pixels = torch.from_numpy(held_out.pixels)
    assert torch.equal(infer(model, pixels)[1], infer(again, pixels)[1])


def test_a_model_without_it_stores_nothing_of_it(teacher):
    state = build(MODEL, teacher, seed=0).trained_state()
    assert not [key for key in state if "gaussian" in key or key.startswith("score_")]


def test_tiles_and_it_exclude_each_other():
    with pytest.raises(ConfigError, match=r"model\.gaussian is 2 and model\.tiles 512"):
        CONFIG.with_values({"tiles": 512})
