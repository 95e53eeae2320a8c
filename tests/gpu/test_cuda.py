"""What a machine with a GPU must show (`make -C tests gpu`), without data or a network."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mrkd.data.images import Geometry
from mrkd.data.preprocess import Decoded
from mrkd.model import device
from mrkd.model.feature_cache import TeacherFeatures
from mrkd.model.inference import score_images
from tests.support.models import small_model
from tests.support.trainings import fit_small

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(),
        reason=f"PyTorch {torch.__version__} finds no CUDA device here",
    ),
]
TOLERANCE = 2e-3
"""Share of a score that a GPU's float32 may differ by: other sums, in another order."""

ON_RAY = """
import json, os
import ray
ray.init(address="local", num_cpus=4, include_dashboard=False)

@ray.remote(num_cpus=0, num_gpus=0.25, max_calls=1)
def one():
    import time, torch
    from mrkd.model import device
    device.check_granted("cuda")
    torch.ones(8, device="cuda").sum().item()
    began = time.time()
    time.sleep(5)
    return os.getpid(), device.identity("cuda"), began, time.time()

print(json.dumps(ray.get([one.remote() for _ in range(4)])))
"""

IN_A_GROUP = """
import sys
from torch import distributed
from mrkd.errors import DeviceError
from mrkd.model import device
from mrkd.training.fit.process_group import ProcessGroup
rank = int(sys.argv[2])
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2)
try:
    ProcessGroup.current().check_devices(device.identity("cuda"))
except DeviceError as error:
    print(error)
distributed.barrier()
"""


def images(count, size=64):
    rng = np.random.default_rng(0)
    geometry = Geometry((size, size), (size, size), "stretch")
    return [
        Decoded(
            f"{n}.png", pixels=rng.integers(0, 256, (size, size, 3), np.uint8), geometry=geometry
        )
        for n in range(count)
    ]


def on_gpu(**values):
    """A model on the GPU; the tests on the CPU keep the teacher that they share."""
    return small_model(**values).to("cuda")


@pytest.fixture(autouse=True)
def _teacher_back():
    yield
    small_model().to("cpu")
    torch.cuda.empty_cache()


def script(code, *args):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


@pytest.mark.parametrize("policy", ["stretch", "letterbox"])
def test_scores_and_maps_are_those_of_the_cpu(policy):
    device.choose("cuda", "float32")
    shown = images(11)
    expected = list(score_images(small_model(resize=policy), shown, batch_size=4, map_size=16))
    found = list(score_images(on_gpu(resize=policy), shown, batch_size=4, map_size=16))
    assert [one.decoded.image_uri for one in found] == [one.image_uri for one in shown]
    for one, other in zip(found, expected, strict=True):
        assert one.image_score == pytest.approx(other.image_score, rel=TOLERANCE)
        assert one.peak == pytest.approx(other.peak, rel=TOLERANCE)
        assert one.peak == one.inside.max()
        assert one.map_mean == pytest.approx(one.inside.mean(dtype=np.float64), rel=1e-6)
        scale = other.anomaly_map.max()
        np.testing.assert_allclose(one.anomaly_map, other.anomaly_map, atol=TOLERANCE * scale)
        np.testing.assert_allclose(one.reduced_map, other.reduced_map, atol=TOLERANCE * scale)


def test_two_passes_over_the_same_images_give_the_same_bits():
    model = on_gpu()
    first, second = (
        [one.image_score for one in score_images(model, images(9), batch_size=4)] for _ in range(2)
    )
    assert first == second


def test_a_resumed_training_ends_with_the_same_bits(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    states = []
    _, whole = fit_small(on_gpu(), call={"save": states.append}, device="cuda")
    _, resumed = fit_small(on_gpu(), call={"resume": states[0]}, device="cuda")
    assert (resumed.digest, resumed.history) == (whole.digest, whole.history)


def test_features_are_kept_on_the_gpu_and_are_those_of_the_cpu():
    pixels = np.stack([one.pixels for one in images(5)])
    expected = TeacherFeatures(small_model().teacher, pixels, budget_bytes=2**30).ready()
    found = TeacherFeatures(on_gpu().teacher, pixels, budget_bytes=2**30).ready()
    assert {level.device.type for level in found.levels} == {"cuda"}
    pairs = zip(found.of([3, 1]).batch([0, 1]), expected.of([3, 1]).batch([0, 1]), strict=True)
    for one, other in pairs:
        scale = other.abs().max().item()
        torch.testing.assert_close(one.cpu(), other.cpu(), rtol=0, atol=TOLERANCE * scale)
    for own, theirs in zip(found.statistics(), expected.statistics(), strict=True):
        torch.testing.assert_close(own, theirs, rtol=TOLERANCE, atol=1e-3)


def test_a_batch_that_does_not_fit_is_scored_in_smaller_ones(caplog):
    """The allocator is limited to what four images take and a little more."""
    model, shown = on_gpu(image_size=256), images(64, 256)
    expected = [one.image_score for one in score_images(model, shown[:8], batch_size=4)]
    peak = torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 1.5 * peak / total))
    try:
        found = [one.image_score for one in score_images(model, shown, batch_size=64)]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out_of_memory batch_size=" in caplog.text
    assert len(found) == 64
    np.testing.assert_allclose(found[:8], expected, rtol=TOLERANCE)


def test_ray_gives_four_tasks_a_quarter_of_one_gpu_each():
    process = script(ON_RAY)
    out, err = process.communicate(timeout=250)
    assert process.returncode == 0, err[-3000:]
    found = json.loads(out.splitlines()[-1])
    assert len({pid for pid, *_ in found}) == 4
    if torch.cuda.device_count() == 1:
        assert len({uuid for _, uuid, *_ in found}) == 1
        assert max(began for *_, began, _ in found) < min(ended for *_, ended in found)


def test_two_workers_on_one_device_are_refused(tmp_path):
    workers = [script(IN_A_GROUP, tmp_path / "meeting", rank) for rank in (0, 1)]
    for worker in workers:
        out, err = worker.communicate(timeout=120)
        assert worker.returncode == 0, err[-3000:]
        assert "workers 0 and 1 of a group compute on one GPU" in out
