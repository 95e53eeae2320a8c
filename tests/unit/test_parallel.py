"""Workers that share a training, as processes that talk by gloo."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mrkd import backbones, training
from mrkd.config import FitConfig
from mrkd.feature_cache import TeacherFeatures
from mrkd.model import build
from mrkd.parallel import Group
from tests.support.models import MODEL

TOP = Path(__file__).parents[2]
FIT = FitConfig(
    max_steps=20,
    batch_size=4,
    learning_rate=5e-3,
    device="cpu",
    precision="float32",
    patience=200,
    micro_batch_size=2,
)
WORKER = """
import json, sys
import torch
from torch import distributed
from mrkd.parallel import Group
from tests.unit.test_parallel import train
place, rank = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
group = Group.current()
summed = [torch.full((2, 3), 1.0 + rank), torch.arange(4.0) * (1 + rank)]
group.add(summed)
told = {
    "size": group.size,
    "sums": [t.tolist() for t in summed],
    "first": group.broadcast(5.0 + rank),
    "any": [group.any(rank == 1), group.any(False)],
}
print(json.dumps(told | train(group)))
"""


def train(group):
    """Twenty steps on drawn images: losses, weights, batch norm's statistics."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, 64, dtype=np.float32)
    pixels = (ramp[None, None, :, None] + rng.normal(0, 10, (12, 64, 64, 3))).clip(0, 255)
    pixels = pixels.astype(np.uint8)
    teacher = backbones.load_teacher(MODEL.backbone, taps=MODEL.taps, weights="random")
    parts = [TeacherFeatures(teacher, part, budget_bytes=0) for part in (pixels[:8], pixels[8:])]
    names = [str(n) for n in range(8)]
    model = build(MODEL, teacher, seed=0)
    fitted = training.fit(model, *parts, FIT, sample_ids=names, group=group)
    state = model.trained_state()
    means = [t.tolist() for name, t in state.items() if name.endswith("running_mean")]
    return {
        "losses": [row["loss"] for row in fitted.history],
        "held_out": [row["validation_loss"] for row in fitted.history],
        "means": [value for mean in means for value in mean],
        "tracked": [int(t) for name, t in state.items() if name.endswith("batches_tracked")],
        "micro_batches": fitted.num_micro_batches,
        "digest": fitted.digest,
    }


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two workers say."""
    place = tmp_path_factory.mktemp("group") / "meeting"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(place), str(rank)],
            cwd=TOP,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        found = [json.loads(worker.communicate(timeout=120)[0]) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return found


def test_a_group_of_one_sends_nothing():
    group, ones = Group.current(), [torch.ones(2)]
    group.add(ones)
    assert (group, ones[0].tolist()) == (Group(0, 1), [1, 1])
    assert (group.broadcast(3.0), group.any(True), group.any(False)) == (3.0, True, False)


def test_workers_add_and_tell_each_other(pair):
    for one in pair:
        assert one["size"] == 2
        assert one["sums"] == [[[3.0] * 3] * 2, [0.0, 3.0, 6.0, 9.0]]
        assert one["first"] == 5.0
        assert one["any"] == [True, False]


def test_two_workers_equal_one_that_accumulates_the_same_micro_batches(pair):
    alone = train(Group())
    first, second = pair
    assert alone["micro_batches"] == first["micro_batches"] == 2
    assert len(alone["losses"]) == 10  # epochs of two steps
    for name in ("losses", "held_out"):
        np.testing.assert_allclose(first[name], alone[name], atol=1e-4)
    np.testing.assert_allclose(first["means"], alone["means"], atol=1e-4)
    assert first["tracked"] == alone["tracked"]
    assert set(alone["tracked"]) <= set(range(21))
    assert first["digest"] == second["digest"]
