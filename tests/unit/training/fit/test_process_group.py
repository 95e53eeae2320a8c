"""Workers that share a training, as processes that talk by gloo."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, nn

from mrkd.errors import DeviceError, MemoryShortError
from mrkd.training.fit import Checkpoint, process_group
from mrkd.training.fit.batch_step import Batches
from mrkd.training.fit.process_group import ProcessGroup
from tests.support import forked
from tests.support.trainings import fit_small


def meet(place, rank):
    """One of two workers: what each function of `SHARED` comes to, into a file."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    group = ProcessGroup.current()
    found = {function.__name__: function(group) for function in SHARED}
    Path(f"{place}.{rank}").write_text(json.dumps(found))


def talk(group):
    """What each method of a group comes to."""
    sums = [torch.full((2, 3), 1.0 + group.rank), torch.arange(4.0) * (1 + group.rank)]
    group.add(sums)
    return {
        "size": group.size,
        "sums": [t.tolist() for t in sums],
        "first": group.broadcast(5.0 + group.rank),
        "any": [group.any(group.rank == 1), group.any(False)],
    }


def train(group):
    """Twenty epochs of one step each, of five images: a piece of three and one of two."""
    states, rows = [], []
    model, fitted = fit_small(
        num_train=5,
        max_steps=20,
        batch_size=5,
        micro_batch_size=3,
        call={"group": group, "save": states.append, "report": rows.append},
    )
    state = model.trained_state()
    statistics = [t for name, t in state.items() if ".running_" in name]
    return {
        "losses": [row["loss"] for row in fitted.history],
        "held_out": [row["validation_loss"] for row in fitted.history],
        "statistics": torch.cat(statistics).tolist(),
        "tracked": [int(t) for name, t in state.items() if name.endswith("batches_tracked")],
        "micro_batches": fitted.num_micro_batches,
        "digest": fitted.digest,
        "num_saved": len(states),
        "num_reported": len(rows),
    }


def run_out_of_memory(group):
    """A step of eight images where the last worker has room for two."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    data = torch.randn(8, 3, 5, 5)

    def loss(step, rows):
        if group.rank == group.size - 1 and len(rows) > 2:
            raise torch.OutOfMemoryError("no room")
        return net(data[torch.from_numpy(rows)]).square().mean()

    batches = Batches(net, loss, num_micro_batches=group.size, group=group)
    found = batches.backward(0, np.arange(8))
    return {
        "loss": found,
        "micro_batches": batches.num_micro_batches,
        "gradients": [p.grad.flatten().tolist() for p in net.parameters()],
        "statistics": [t.flatten().tolist() for t in net.buffers()],
    }


def start_apart(group):
    """What a worker says that read a later checkpoint than the first one."""
    resume = Checkpoint({}, {}, {}, 10 * (1 + group.rank), 0, [], "float32", 1)
    with pytest.raises(RuntimeError) as error:
        fit_small(call={"group": group, "resume": resume})
    return str(error.value)


SHARED = (talk, train, run_out_of_memory, start_apart)


def fail_alone(place, rank):
    """The second worker fails and lives on; the first one waits for it, and for its own patience.

    A file for each: seconds until the error, and its text.
    """
    distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    group, began = ProcessGroup.current(), time.monotonic()

    def work():
        if rank:
            raise MemoryShortError("no room for two images")
        group.any(False)

    expected = MemoryShortError if rank else RuntimeError
    with pytest.raises(expected) as error, group.sharing_failures():
        work()
    found = {"seconds": time.monotonic() - began, "error": str(error.value)}
    Path(f"{place}.{rank}").write_text(json.dumps(found))
    await_file(f"{place}.{1 - rank}")


def be_late(place, rank):
    """The second worker does not send its sums, and lives on."""
    distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    process_group.STEP_TIMEOUT_S = 1.0
    group, began, text = ProcessGroup.current(), time.monotonic(), ""
    if not rank:
        with pytest.raises(RuntimeError) as error:
            group.add([torch.ones(2)])
        text = str(error.value)
    found = {"seconds": time.monotonic() - began, "error": text}
    Path(f"{place}.{rank}").write_text(json.dumps(found))
    await_file(f"{place}.0")


def crowd(place, rank):
    """Both workers on one GPU, and then each on its own."""
    distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    group = ProcessGroup.current()
    with pytest.raises(DeviceError) as error:
        group.check_devices("GPU-5ebe9f43")
    distributed.barrier()
    group.check_devices(f"GPU-{rank}")
    distributed.barrier()
    group.check_devices("")
    Path(f"{place}.{rank}").write_text(json.dumps({"error": str(error.value)}))


def await_file(name):
    began = time.monotonic()
    while not Path(name).exists() and time.monotonic() - began < 60:
        time.sleep(0.05)


def both(function, place):
    """What each of two workers wrote."""
    workers = [forked.start(function, str(place), rank) for rank in (0, 1)]
    try:
        for worker in workers:
            worker.join(90)
        assert [worker.exitcode for worker in workers] == [0, 0]
        return [json.loads(Path(f"{place}.{rank}").read_text()) for rank in (0, 1)]
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


@pytest.fixture(autouse=True)
def _one_thread():
    """As the workers have: more of them add up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What each of two workers comes to, by function."""
    return both(meet, tmp_path_factory.mktemp("group") / "meeting")


def test_a_group_of_one_sends_nothing():
    group, ones = ProcessGroup.current(), [torch.ones(2)]
    group.add(ones)
    assert (group, ones[0].tolist()) == (ProcessGroup(0, 1), [1, 1])
    assert (group.broadcast(3.0), group.any(True), group.any(False)) == (3.0, True, False)


def test_workers_add_and_tell_each_other(pair):
    for one in pair:
        assert one["talk"] == {
            "size": 2,
            "sums": [[[3.0] * 3] * 2, [0.0, 3.0, 6.0, 9.0]],
            "first": 5.0,
            "any": [True, False],
        }


def test_two_workers_equal_one_that_accumulates_the_same_micro_batches(pair):
    alone = train(ProcessGroup())
    first, second = (one["train"] for one in pair)
    assert alone["micro_batches"] == first["micro_batches"] == 2
    assert len(alone["losses"]) == 20
    for name in ("losses", "held_out", "statistics"):
        np.testing.assert_allclose(first[name], alone[name], atol=1e-4)
    assert first["tracked"] == alone["tracked"]
    assert first["digest"] == second["digest"]


def test_every_worker_reports_and_the_first_alone_saves(pair):
    first, second = (one["train"] for one in pair)
    assert (first["num_reported"], second["num_reported"]) == (20, 20)
    assert (first["num_saved"], second["num_saved"]) == (19, 0)


def test_where_one_worker_lacks_memory_all_take_smaller_pieces(pair):
    alone = run_out_of_memory(ProcessGroup())
    assert alone["micro_batches"] == 4
    for one in pair:
        found = one["run_out_of_memory"]
        assert found["micro_batches"] == 4
        assert found["loss"] == pytest.approx(alone["loss"], rel=1e-6)
        for name in ("gradients", "statistics"):
            for mine, theirs in zip(found[name], alone[name], strict=True):
                np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)


def test_workers_that_read_different_checkpoints_all_stop_before_the_first_step(pair):
    first, second = (one["start_apart"] for one in pair)
    assert "this one's is of step 10, the first one's of step 10" in first
    assert "this one's is of step 20, the first one's of step 10" in second


def test_a_worker_that_fails_ends_those_that_wait_for_it(tmp_path):
    first, second = both(fail_alone, tmp_path / "meeting")
    assert second["error"] == "no room for two images"
    assert first["error"] == (
        "worker 1 of the group failed: MemoryShortError: no room for two images"
    )
    assert first["seconds"] < 20


def test_a_worker_that_does_not_send_its_sums_is_not_waited_for_without_end(tmp_path):
    first, _ = both(be_late, tmp_path / "meeting")
    assert first["error"] == "worker 0 of a group waited 1 s for the others"
    assert 1 <= first["seconds"] < 20


def test_two_workers_on_one_gpu_are_refused(tmp_path):
    for one in both(crowd, tmp_path / "meeting"):
        assert one["error"].startswith("workers 0 and 1 of a group compute on one GPU, GPU-5ebe9f")
