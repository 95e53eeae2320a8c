"""Resources of the workers of a run, by the nodes that it may use."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mrkd.config import Device, EvalConfig, PoolConfig, TrainConfig
from mrkd.errors import ConfigError

READER_CPUS = 0.5
"""CPUs of a task that reads and decodes a shard, or writes one: it waits more than it works."""


AHEAD_CPUS = 0.25
"""CPUs of a task that reads the images of a category before a GPU takes them."""
_BESIDE_READERS = 0.75
"""Share of a GPU node's CPUs that its workers take; the rest is for readers of images."""

_GIB = 2**30
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cpus() -> int:
    """CPUs that this process may use: those of its affinity, less where its cgroup has a quota."""
    number = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # without a quota: no file, or `max`
        quota, period = _QUOTA.read_text().split()
        number = min(number, math.floor(int(quota) / int(period)))
    return max(1, number)


@dataclass(frozen=True)
class Node:
    """Resources of one machine of the cluster.

    Args:
        cpus: number of CPUs.
        gpus: number of GPUs.
        memory: bytes that workers may ask for; infinite where it is not known.
        labels: labels as `key=value`; None: not known, as of a node that is asleep.
    """

    cpus: float
    gpus: float = 0.0
    memory: float = field(default=math.inf, compare=False)
    labels: frozenset[str] | None = field(default=None, compare=False)

    def has(self, labels: Sequence[str]) -> bool:
        """Whether it may have these labels."""
        return self.labels is None or self.labels.issuperset(labels)


@dataclass(frozen=True)
class Resources:
    """Resources that one worker takes of its node, and the threads that torch uses there."""

    cpus: float
    gpus: float = 0.0
    threads: int = 1
    device: Device = "auto"
    """Device that its work asks for."""
    memory: float = 0.0
    """Bytes of its node's memory that it asks for; 0: it asks for none."""
    labels: tuple[str, ...] = ()
    """Labels of its node, as `key=value`."""

    @property
    def by_name(self) -> dict[str, float]:
        """CPUs, and GPUs and memory where they are asked for, by Ray's names."""
        more = {"GPU": self.gpus, "memory": self.memory}
        return {"CPU": self.cpus} | {name: value for name, value in more.items() if value}


@dataclass(frozen=True)
class Pool:
    """Number of scorers, and the resources of each."""

    size: int
    each: Resources


def fleet_resources(
    found: Sequence[Node], config: TrainConfig | EvalConfig, num_workers: int
) -> Resources:
    """The resources of each of some equal workers by a fleet's config: see `worker_resources`."""
    return worker_resources(
        found,
        cpus=config.fleet.cpus_per_worker,
        gpus=config.fleet.gpus_per_worker,
        device=config.train.device,
        num_workers=num_workers,
        memory=config.fleet.memory_per_worker * _GIB,
        labels=config.fleet.node_labels,
    )


def worker_resources(
    found: Sequence[Node],
    *,
    cpus: float,
    gpus: float,
    device: Device,
    num_workers: int,
    memory: float = 0.0,
    labels: tuple[str, ...] = (),
) -> Resources:
    """The resources of each of some equal workers.

    Args:
        found: nodes of the executor.
        cpus: wanted CPUs; 0: the workers that run at once on a node share its CPUs.
        gpus: wanted GPUs; 0: one, where there are GPUs and the device allows it.
        device: device that the config asks for.
        num_workers: number of workers, at once or in turn.
        memory: wanted bytes of memory; 0: none is asked for.
        labels: labels of the nodes that may be used.

    Raises:
        ConfigError: no node of the cluster can ever hold such a worker.
    """
    found = [node for node in found if node.has(labels)]
    gpus = gpus or _one_gpu(found, device)
    least = Resources(cpus, gpus, memory=memory)
    fits = [node for node in found if _holds(node, least)]
    if not fits:
        more = f" and {memory / _GIB:g} GiB" * bool(memory)
        raise ConfigError(
            f"a worker asks {cpus:g} CPUs and {gpus:g} GPUs{more} of one node; the nodes"
            f"{_with(labels)} have {_offers(found)}: lower cpus_per_worker, gpus_per_worker, "
            "memory_per_worker or gpus_per_scorer"
        )
    shares = [_share(node, gpus, num_workers) for node in fits]
    # Each GPU of each kind of node is used, beside readers; CPUs alone are shared by the largest.
    share = min(shares) * _BESIDE_READERS if gpus else max(shares)
    # Whole CPUs; a fraction of one for each worker where many share a GPU and few CPUs.
    cpus = cpus or (float(math.floor(share)) if share >= 1 else math.floor(share * 1000) / 1000)
    threads = max(1, math.floor(cpus))
    return Resources(cpus, gpus, threads, device=device, memory=memory, labels=labels)


def _share(node: Node, gpus: float, num_workers: int) -> float:
    """CPUs of each of the workers that are at once on a node."""
    at_once = math.floor(node.gpus / gpus) if gpus else math.floor(node.cpus)
    return node.cpus / max(1, min(at_once, num_workers))


def room_for(found: Sequence[Node], each: Resources) -> int:
    """Number of workers with such resources that the nodes hold at one time."""
    return sum(_holds(node, each) for node in found if node.has(each.labels))


def has_room_beside(found: Sequence[Node], each: Resources) -> bool:
    """Whether a node has room for reading ahead while it holds all workers that it can."""
    return any(
        node.cpus - _holds(node, each) * each.cpus * node.has(each.labels) >= AHEAD_CPUS
        for node in found
    )


def _holds(node: Node, each: Resources) -> int:
    """Number of workers that a node holds; 1 of workers that ask for nothing."""
    pairs = (node.cpus, each.cpus), (node.gpus, each.gpus), (node.memory, each.memory)
    numbers = [have / wanted for have, wanted in pairs if wanted and math.isfinite(have)]
    return math.floor(min(numbers, default=1))


def groups_at_once(found: Sequence[Node], each: Resources, size: int) -> int:
    """Number of groups of workers that the nodes hold at one time.

    Args:
        found: nodes of the executor.
        each: resources of each worker.
        size: number of workers of a group.

    Raises:
        ConfigError: the cluster can never hold one group.
    """
    room = room_for(found, each)
    if room < size:
        raise ConfigError(
            f"{size} workers_per_category of {each.cpus:g} CPUs and {each.gpus:g} GPUs each: the "
            f"nodes ({_offers(found)}) have room for {room}: lower workers_per_category, "
            "cpus_per_worker or gpus_per_worker"
        )
    return room // size


def scorer_pool(found: Sequence[Node], pool: PoolConfig) -> Pool:
    """The number of scorers and their resources.

    By default one scorer for each GPU, which takes no CPU; on a cluster of CPUs one for each CPU,
    with one thread, which takes half of the CPU and leaves the rest to readers: they mostly wait.
    Two threads of one scorer wait for each other whenever a reader takes one's core (on 2 cores 27
    images/s; two scorers 43).

    Raises:
        ConfigError: the cluster can never hold them beside one reader.
    """
    found = [node for node in found if node.has(pool.node_labels)]
    gpus = pool.gpus_per_scorer or _one_gpu(found, pool.device)
    asked: dict[str, Any] = {"labels": pool.node_labels, "memory": pool.memory_per_scorer * _GIB}
    if gpus:
        each = Resources(0.0, gpus, device=pool.device, **asked)
        chosen = Pool(pool.scorers or scorer_room(found, each), each)
    else:
        with_cpus = [node.cpus for node in found if node.cpus]
        wanted = pool.scorers or max(1, sum(math.floor(cpus) for cpus in with_cpus))
        per_node = math.ceil(wanted / max(1, len(with_cpus)))
        share = max(1.0, min(with_cpus, default=0.0) / per_node)
        threads = max(1, math.floor(share))
        each = Resources(max(0.5, math.floor(0.75 * share)), threads=threads, **asked)
        chosen = Pool(wanted, each)
    room = scorer_room(found, chosen.each)
    if not 1 <= chosen.size <= room:
        raise ConfigError(
            f"{chosen.size} scorers of {chosen.each.cpus:g} CPUs and {gpus:g} GPUs each, beside "
            f"readers of {READER_CPUS:g} CPUs: the nodes ({_offers(found)}) have room for {room}: "
            "lower pool.scorers or pool.gpus_per_scorer"
        )
    return chosen


def scorer_room(found: Sequence[Node], each: Resources) -> int:
    """Number of scorers with such resources that the nodes hold."""
    if each.gpus:
        return room_for(found, each)
    # Pools take their CPUs before data flows: without room for a reader a night would hang.
    beside = [replace(node, cpus=node.cpus - READER_CPUS) for node in found if node.cpus]
    return room_for(beside, each)


def _one_gpu(found: Sequence[Node], device: Device) -> float:
    return float(device != "cpu" and any(node.gpus for node in found))


def _offers(found: Sequence[Node]) -> str:
    return ", ".join(f"{n.cpus:g} CPUs and {n.gpus:g} GPUs" for n in found) or "nothing"


def _with(labels: Sequence[str]) -> str:
    return f" with {', '.join(labels)}" if labels else ""
