"""One step in pieces: accumulation, lack of memory, and what batch norm keeps."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from mrkd.config import FitConfig
from mrkd.errors import CategoryError
from mrkd.training.fit import num_micro_batches
from mrkd.training.fit.batch_step import Batches
from mrkd.training.fit.process_group import ProcessGroup
from tests.support.models import small_model
from tests.support.trainings import fit_small

CONFIG = FitConfig(batch_size=8)


@pytest.mark.parametrize(
    ("micro", "images", "workers", "expected"),
    [
        (0, 100, 1, 1),
        (0, 100, 2, 2),
        (4, 100, 1, 2),
        (4, 100, 2, 2),
        (3, 100, 1, 3),
        (2, 100, 2, 4),
        (2, 5, 1, 2),  # five images: three and two
        (8, 100, 4, 4),
    ],
)
def test_a_batch_is_cut_as_asked_and_evenly_among_workers(micro, images, workers, expected):
    config = dataclasses.replace(CONFIG, micro_batch_size=micro)
    assert num_micro_batches(config, num_images=images, workers=workers) == expected


def test_too_many_workers_for_a_batch_are_refused():
    with pytest.raises(CategoryError, match="a batch of 8 images for 5 workers_per_category"):
        num_micro_batches(CONFIG, num_images=100, workers=5)


class Net(nn.Module):
    """A layer and its batch norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.most = 1000

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError(f"{len(x)} images")
        return self.norm(self.conv(x))


DATA = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(1))


def batches(net, number, group=None):
    def loss(step, rows):
        return net(DATA[torch.from_numpy(rows)]).square().mean() + net.conv.weight.sum()

    return Batches(net.train(), loss, num_micro_batches=number, group=group or ProcessGroup())


def test_gradients_of_pieces_are_those_of_their_weighted_mean():
    net, rows = Net(), np.arange(8)
    loss = batches(net, 3).backward(0, rows)  # three, three and two images
    found = [p.grad.clone() for p in net.parameters()]
    other = Net().train()
    pieces = np.array_split(rows, 3)
    parts = [
        (other(DATA[torch.from_numpy(p)]).square().mean() + other.conv.weight.sum()) * len(p) / 8
        for p in pieces
    ]
    sum(parts).backward()
    assert loss == pytest.approx(sum(parts).item(), rel=1e-6)
    for mine, theirs in zip(found, other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs.grad)


def test_running_statistics_are_the_mean_over_the_micro_batches():
    net, rows = Net(), np.arange(8)
    batches(net, 2).backward(0, rows)
    each = []
    for piece in np.array_split(rows, 2):
        other = Net().train()
        other(DATA[torch.from_numpy(piece)])
        each.append(other.norm)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([norm.get_buffer(name) for norm in each]).mean(0)
        torch.testing.assert_close(net.norm.get_buffer(name), mean)
    assert net.norm.num_batches_tracked == 1


def test_a_batch_in_one_piece_leaves_what_a_plain_step_leaves():
    net, plain = Net(), Net().train()
    loss = batches(net, 1).backward(0, np.arange(8))
    expected = plain(DATA).square().mean() + plain.conv.weight.sum()
    expected.backward()
    assert loss == expected.item()
    for mine, theirs in zip(net.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)


def test_out_of_memory_halves_the_micro_batch_and_the_step_is_done_again(caplog):
    net, calm = Net(), Net()
    net.most = 2
    one = batches(net, 1)
    loss = one.backward(0, np.arange(8))
    assert one.num_micro_batches == 4
    assert loss == batches(calm, 4).backward(0, np.arange(8))
    for mine, theirs in zip(net.state_dict().values(), calm.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(net.parameters(), calm.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)
    assert "out_of_memory micro_batch_size=2" in caplog.text


def test_out_of_memory_with_two_images_ends_the_category():
    net = Net()
    net.most = 1
    with pytest.raises(CategoryError, match="out of memory with 2 images at a time"):
        batches(net, 1).backward(0, np.arange(8))


@pytest.mark.parametrize(
    "text",
    [
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)",
    ],
)
def test_other_words_for_a_lack_of_memory_are_understood(text):
    one = failing_above_four(text)
    one.backward(0, np.arange(8))
    assert one.num_micro_batches == 2


def test_another_error_of_the_loss_is_passed_on():
    with pytest.raises(RuntimeError, match="shapes"):
        failing_above_four("shapes do not match").backward(0, np.arange(8))


def failing_above_four(text):
    net = Net().train()

    def loss(step, rows):
        if len(rows) > 4:
            raise RuntimeError(text)
        return net(DATA[torch.from_numpy(rows)]).mean()

    return Batches(net, loss, num_micro_batches=1, group=ProcessGroup())


def test_a_fit_says_that_it_ran_out_of_memory_and_goes_on_so():
    """As if there were room for the activations of two images in training."""

    def crowd(module, inputs):
        if module.training and len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("no room")

    model, states = small_model(), []
    model.embedding.register_forward_pre_hook(crowd)
    _, result = fit_small(model, call={"save": states.append})
    assert result.num_micro_batches == 2
    assert "memory ran out: batches of 4 were computed 2 images at a time" in result.warnings[0]
    _, asked = fit_small(micro_batch_size=2)
    assert (result.digest, asked.warnings) == (asked.digest, [])
    _, resumed = fit_small(call={"resume": states[0]})
    assert (resumed.digest, resumed.num_micro_batches) == (asked.digest, 2)
