import numpy as np
import pytest
import torch

from mrkd.model import patch_knn
from mrkd.model.detector import infer
from mrkd.model.feature_cache import TeacherFeatures
from mrkd.model.patch_knn import NearestNeighbour, _coreset
from mrkd.model.teacher.teacher import load_teacher
from tests.support.models import MODEL


@pytest.fixture(scope="module")
def teacher():
    return load_teacher(MODEL.backbone, taps=MODEL.taps, weights="random")


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(90, 130, (count, 64, 64, 3), np.uint8)


def fitted(teacher, pixels, seed=0):
    return NearestNeighbour(MODEL, TeacherFeatures(teacher, pixels, budget_bytes=2**30), seed=seed)


def test_what_is_not_like_the_good_parts_lies_far_from_them(teacher):
    memory = fitted(teacher, pictures(12))
    shown = pictures(2, seed=1)
    shown[1, 20:40, 20:40] = (250, 10, 10)
    maps, scores, _ = infer(memory, torch.from_numpy(shown))
    assert maps.shape == (2, 64, 64)
    assert scores[1] > 1.5 * scores[0]
    assert maps[1, 20:40, 20:40].mean() > 2 * maps[1, :, 50:].mean()


def test_distances_are_float32_under_autocast(teacher):
    memory = fitted(teacher, pictures(6))
    shown = torch.from_numpy(pictures(2, seed=1))
    exact = infer(memory, shown)
    with torch.autocast("cpu", torch.float16):
        rough = infer(memory, shown)
    assert torch.equal(rough[0], exact[0])
    assert torch.equal(rough[1], exact[1])


def test_distances_are_those_to_the_nearest_of_all_patches_kept(teacher):
    memory = fitted(teacher, pictures(6))
    tensor = torch.zeros(1, 3, 64, 64)
    patches = memory._patches(memory.teacher(tensor))[0].flatten(0, 1)
    expected = torch.cdist(patches.double(), memory.memory.double()).amin(1)
    assert torch.allclose(memory(tensor).flatten().double(), expected, atol=1e-3)


def test_a_tenth_of_the_patches_is_kept_and_a_seed_gives_them_again(teacher):
    pixels = pictures(6)
    memory = fitted(teacher, pixels)
    height, width = memory.grid
    assert len(memory.memory) == round(0.1 * 6 * height * width)
    assert torch.equal(memory.memory, fitted(teacher, pixels).memory)
    assert not torch.equal(memory.memory, fitted(teacher, pixels, seed=1).memory)


def test_of_too_many_patches_some_are_drawn(teacher, monkeypatch):
    monkeypatch.setattr(patch_knn, "MAX_PATCHES", 200)
    memory = fitted(teacher, pictures(12))
    assert 10 <= len(memory.memory) <= 30


def test_the_coreset_spreads_over_all_patches():
    generator = torch.Generator().manual_seed(0)
    centres = 20 * torch.eye(8)
    patches = centres.repeat_interleave(50, 0) + torch.randn(400, 8, generator=generator)
    chosen = _coreset(patches, 8, generator)
    assert sorted((chosen // 50).tolist()) == list(range(8))
