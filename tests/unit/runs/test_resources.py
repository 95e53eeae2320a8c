import pytest

from mrkd.config import PoolConfig
from mrkd.errors import ConfigError
from mrkd.runs.resources import (
    READER_CPUS,
    Node,
    Pool,
    Resources,
    groups_at_once,
    has_room_beside,
    room_for,
    scorer_pool,
    worker_resources,
)

TWO_CPUS = [Node(2)]
GPU_MACHINE = [Node(4), Node(16, 2)]


def ask(found, *, cpus=0, gpus=0, device="auto", num_workers=100, **more):
    return worker_resources(
        found, cpus=cpus, gpus=gpus, device=device, num_workers=num_workers, **more
    )


def test_workers_of_a_cpu_node_share_its_cpus():
    assert ask(TWO_CPUS) == Resources(1, 0, threads=1)
    assert ask(TWO_CPUS, num_workers=1) == Resources(2, 0, threads=2)
    assert ask([Node(16)], num_workers=3) == Resources(5, 0, threads=5)
    assert ask([Node(0.5)]) == Resources(0.5, 0, threads=1)


def test_workers_take_a_gpu_where_there_is_one_and_most_of_the_cpus_beside_it():
    assert ask(GPU_MACHINE) == Resources(6, 1, threads=6)
    assert ask(GPU_MACHINE, gpus=0.25) == Resources(1, 0.25, threads=1)
    assert ask(GPU_MACHINE, device="cpu") == Resources(1, 0, threads=1, device="cpu")


def test_workers_fill_every_kind_of_gpu_node_and_leave_readers_room():
    found = [Node(192, 8), Node(48, 4), Node(48, 4)]
    each = ask(found)
    assert each == Resources(9, 1, threads=9)
    assert room_for(found, each) == 16
    for node in found:
        taken = each.cpus * room_for([node], each)
        assert node.cpus - taken >= node.gpus * 2 * READER_CPUS
    # A night beside it: its scorers take no CPU, and each node has readers.
    assert scorer_pool(found, PoolConfig()) == Pool(16, Resources(0, 1))


def test_images_are_read_ahead_where_workers_leave_room():
    assert has_room_beside([Node(1, 1)], ask([Node(1, 1)]))
    assert has_room_beside([Node(2, 2)], ask([Node(2, 2)]))
    assert not has_room_beside([Node(2, 1)], ask([Node(2, 1)], cpus=2))
    assert has_room_beside([Node(2, 1), Node(4)], Resources(4, 1))


def test_a_hundred_nodes_are_used():
    found = [Node(8)] + [Node(96, 8)] * 60 + [Node(64)] * 40
    assert room_for(found, ask(found, num_workers=10_000)) == 480
    assert scorer_pool(found, PoolConfig()).size == 480


def test_an_ask_that_no_node_can_hold_is_refused_with_the_arithmetic():
    with pytest.raises(ConfigError, match=r"3 GPUs of one node.*16 CPUs and 2 GPUs"):
        ask(GPU_MACHINE, gpus=3)
    with pytest.raises(ConfigError, match=r"4 CPUs and 0 GPUs of one node.*2 CPUs and 0 GPUs"):
        ask(TWO_CPUS, cpus=4)


def test_scorers_leave_room_for_readers():
    assert scorer_pool(TWO_CPUS, PoolConfig()) == Pool(2, Resources(0.5, 0, threads=1))
    assert scorer_pool([Node(1)], PoolConfig()) == Pool(1, Resources(0.5, 0, threads=1))
    assert scorer_pool([Node(16)] * 3, PoolConfig()) == Pool(48, Resources(0.5, 0, threads=1))
    assert scorer_pool([Node(16)], PoolConfig(scorers=4)) == Pool(4, Resources(3, 0, threads=4))


def test_scorers_take_one_gpu_each():
    assert scorer_pool(GPU_MACHINE, PoolConfig()) == Pool(2, Resources(0, 1))
    assert scorer_pool(GPU_MACHINE, PoolConfig(gpus_per_scorer=0.5)) == Pool(4, Resources(0, 0.5))


@pytest.mark.parametrize(
    ("found", "pool"),
    [
        (TWO_CPUS, PoolConfig(scorers=4)),
        (TWO_CPUS, PoolConfig(gpus_per_scorer=1)),
        (GPU_MACHINE, PoolConfig(scorers=3)),
        ([Node(0)], PoolConfig()),
    ],
)
def test_a_pool_that_the_nodes_cannot_hold_beside_a_reader_is_refused(found, pool):
    with pytest.raises(ConfigError, match="have room for"):
        scorer_pool(found, pool)


def test_as_many_groups_train_at_once_as_the_nodes_hold_workers_for():
    assert groups_at_once([Node(4), Node(2)], Resources(1), 2) == 3
    assert groups_at_once(GPU_MACHINE, Resources(6, 1), 2) == 1
    with pytest.raises(ConfigError, match=r"5 workers_per_category of 1 CPUs.*have room for 2"):
        groups_at_once(TWO_CPUS, Resources(1), 5)


def test_nodes_with_other_labels_or_too_little_memory_are_not_used():
    gib = 2**30
    fast = Node(16, 2, memory=64 * gib, labels=frozenset({"zone=a", "gpu=H100"}))
    slow = Node(16, 2, memory=64 * gib, labels=frozenset({"zone=a"}))
    asleep = Node(16, 2)
    found = [fast, slow, asleep]
    each = ask(found, labels=("gpu=H100",), memory=24 * gib)
    assert (each.labels, each.memory) == (("gpu=H100",), 24 * gib)
    assert room_for(found, each) == 4  # of the node that sleeps neither is known
    assert room_for([fast], ask(found, memory=48 * gib)) == 1
    with pytest.raises(ConfigError, match=r"80 GiB of one node.*lower .*memory_per_worker"):
        ask([fast, slow], memory=80 * gib)
    with pytest.raises(ConfigError, match="nodes with zone=b have nothing"):
        ask([fast, slow], labels=("zone=b",))
    pool = PoolConfig(node_labels=("gpu=H100",), memory_per_scorer=40)
    assert scorer_pool([fast, slow], pool).size == 1
    assert scorer_pool([fast, slow], PoolConfig(node_labels=("zone=a",))).size == 4


@pytest.mark.parametrize("label", ["gpu", "=a", "gpu="])
def test_a_label_without_key_or_value_is_refused(label):
    with pytest.raises(ConfigError, match=r"pool.reader_labels holds .*: write key=value"):
        PoolConfig(reader_labels=(label,))
