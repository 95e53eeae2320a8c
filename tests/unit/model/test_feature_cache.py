"""Teacher features: what they are of, and their statistics."""

import numpy as np
import pytest
import torch

from mrkd.config import RoiConfig
from mrkd.data.images import to_tensor
from mrkd.data.roi import Roi
from mrkd.errors import MemoryShortError
from mrkd.model import feature_cache
from mrkd.model.feature_cache import TeacherFeatures
from tests.support.models import small_model

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8)


def corner():
    mask = np.zeros((64, 64), bool)
    mask[:24, :40] = True
    return Roi(mask, RoiConfig())


def features(model):
    return TeacherFeatures(model.teacher, PIXELS, budget_bytes=2**30, roi=model.pixel_roi)


def test_what_a_student_learns_from_is_what_its_model_shows_it():
    for roi in (None, corner()):
        model = small_model(roi=roi)
        shown = to_tensor(torch.from_numpy(PIXELS[:4]), model.teacher.normalisation)
        for found, expected in zip(
            features(model).compute(PIXELS[:4]), model.teacher_features(shown), strict=True
        ):
            assert torch.equal(found, expected)


def test_a_lack_of_memory_halves_what_the_teacher_sees_at_once():
    model, room = small_model(), 3
    expected = features(model).compute(PIXELS[:7])

    def crowd(module, inputs):
        if len(inputs[0]) > room:
            raise torch.OutOfMemoryError("no room")

    hook = model.teacher.register_forward_pre_hook(crowd)
    try:
        for found, level in zip(features(model).compute(PIXELS[:7]), expected, strict=True):
            torch.testing.assert_close(found, level)
        room = 0
        with pytest.raises(MemoryShortError, match="out of memory in the teacher with image 0"):
            features(model).compute(PIXELS[:7])
    finally:
        hook.remove()


@pytest.mark.parametrize(("free", "on_gpu"), [(10**9, True), (10**6, False), (None, False)])
def test_features_lie_on_the_gpu_while_they_take_a_share_of_its_free_memory(
    monkeypatch, free, on_gpu
):
    """The GPU is only said to be one: its tensors are made on the CPU here."""
    model, made = small_model(), []
    expected = features(model).ready()

    def make(shape, device):
        made.append(shape)
        if free is None:
            raise torch.OutOfMemoryError("others were faster")
        return torch.empty(shape, dtype=torch.float16)

    room = feature_cache._room_on
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free or 10**9, 10**10))
    monkeypatch.setattr(feature_cache, "_room_on", lambda device: room(torch.device("cuda")))
    monkeypatch.setattr(feature_cache, "_on", make)
    found = features(model)
    for one, other in zip(found.levels, expected.levels, strict=True):
        assert torch.equal(one, other)
    assert made == ([one.shape for one in found.levels] if on_gpu else made[: free is None])


def test_statistics_are_mean_and_deviation_of_each_channel():
    cache = features(small_model())
    for level, (mean, std) in zip(cache.levels, cache.statistics(), strict=True):
        double = level.double()
        torch.testing.assert_close(mean, double.mean((0, 2, 3)))
        torch.testing.assert_close(std, double.std((0, 2, 3), correction=0), atol=1e-6, rtol=1e-6)


def test_statistics_of_a_region_are_those_of_what_lies_in_it():
    model = small_model(roi=corner())
    cache = features(model)
    inside = cache.statistics(roi=model.all_level_roi)
    for level, stride, (mean, std) in zip(cache.levels, model.teacher.strides, inside, strict=True):
        cut = level[:, :, : -(-24 // stride), : -(-40 // stride)].double()
        torch.testing.assert_close(mean, cut.mean((0, 2, 3)))
        torch.testing.assert_close(std, cut.std((0, 2, 3), correction=0), atol=1e-6, rtol=1e-6)


def shared(folder):
    return TeacherFeatures(small_model().teacher, PIXELS, budget_bytes=2**30, folder=str(folder))


def test_a_shared_folder_is_of_this_user_alone(tmp_path):
    folder = tmp_path / "run" / "cap"
    levels = shared(folder).levels
    assert [one.stat().st_mode & 0o777 for one in (folder, folder.parent)] == [0o700, 0o700]
    assert len(list(folder.iterdir())) == len(levels) + 1  # and the lock


@pytest.mark.parametrize("taken", ["open to all", "link", "dangling", "file", "another's"])
def test_a_folder_that_another_user_can_write_to_is_not_used(tmp_path, monkeypatch, taken):
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    if taken == "open to all":
        folder.mkdir()
        folder.chmod(0o777)
    elif taken == "file":
        folder.write_text("")
    elif taken == "another's":
        folder.mkdir(mode=0o700)
        monkeypatch.setattr("os.getuid", lambda: folder.stat().st_uid + 1)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    else:
        if taken == "link":
            elsewhere.mkdir()
        folder.symlink_to(elsewhere)
    found = shared(folder).levels
    assert not elsewhere.exists() or not list(elsewhere.iterdir())
    assert not folder.is_dir() or not list(folder.iterdir())
    private = TeacherFeatures(small_model().teacher, PIXELS, budget_bytes=2**30).levels
    assert all(torch.equal(one, other) for one, other in zip(found, private, strict=True))
