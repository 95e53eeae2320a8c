"""Resources of the workers of a run, by the nodes that it may use."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mrkd.config import Device, EvalConfig, PoolConfig, TrainConfig
from mrkd.errors import ConfigError

READER_CPUS = 0.5
"""CPUs of a task that reads and decodes a shard, or writes one: it waits more than it works."""


_BESIDE_READERS = 0.75
"""Share of a GPU node's CPUs that its workers take; the rest is for readers of images."""

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
    """Resources of one machine of the cluster."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Resources:
    """Resources that one worker takes of its node, and the threads that torch uses there."""

    cpus: float
    gpus: float = 0.0
    threads: int = 1
    device: Device = "auto"
    """Device that its work asks for."""

    @property
    def by_name(self) -> dict[str, float]:
        """CPUs, and GPUs where there are any, by Ray's names."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


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
    )


def worker_resources(
    found: Sequence[Node], *, cpus: float, gpus: float, device: Device, num_workers: int
) -> Resources:
    """The resources of each of some equal workers.

    Args:
        found: nodes of the executor.
        cpus: wanted CPUs; 0: the workers that run at once on a node share its CPUs.
        gpus: wanted GPUs; 0: one, where there are GPUs and the device allows it.
        device: device that the config asks for.
        num_workers: number of workers, at once or in turn.

    Raises:
        ConfigError: no node of the cluster can ever hold such a worker.
    """
    gpus = gpus or _one_gpu(found, device)
    fits = [node for node in found if node.gpus >= gpus and node.cpus >= cpus]
    if not fits:
        raise ConfigError(
            f"a worker asks {cpus:g} CPUs and {gpus:g} GPUs of one node; the nodes have "
            f"{_offers(found)}: lower cpus_per_worker, gpus_per_worker or gpus_per_scorer"
        )
    shares = [_share(node, gpus, num_workers) for node in fits]
    # Each GPU of each kind of node is used, beside readers; CPUs alone are shared by the largest.
    share = min(shares) * _BESIDE_READERS if gpus else max(shares)
    # Whole CPUs; a fraction of one for each worker where many share a GPU and few CPUs.
    cpus = cpus or (float(math.floor(share)) if share >= 1 else math.floor(share * 1000) / 1000)
    return Resources(cpus, gpus, threads=max(1, math.floor(cpus)), device=device)


def _share(node: Node, gpus: float, num_workers: int) -> float:
    """CPUs of each of the workers that are at once on a node."""
    at_once = math.floor(node.gpus / gpus) if gpus else math.floor(node.cpus)
    return node.cpus / max(1, min(at_once, num_workers))


def room_for(found: Sequence[Node], each: Resources) -> int:
    """Number of workers with such resources that the nodes hold at one time."""
    return sum(
        math.floor(
            min(
                node.cpus / each.cpus if each.cpus else math.inf,
                node.gpus / each.gpus if each.gpus else math.inf,
            )
        )
        for node in found
    )


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
    gpus = pool.gpus_per_scorer or _one_gpu(found, pool.device)
    if gpus:
        each = Resources(0.0, gpus, device=pool.device)
        chosen = Pool(pool.scorers or scorer_room(found, each), each)
    else:
        with_cpus = [node.cpus for node in found if node.cpus]
        wanted = pool.scorers or max(1, sum(math.floor(cpus) for cpus in with_cpus))
        per_node = math.ceil(wanted / max(1, len(with_cpus)))
        share = max(1.0, min(with_cpus, default=0.0) / per_node)
        each = Resources(max(0.5, math.floor(0.75 * share)), threads=max(1, math.floor(share)))
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
        return sum(math.floor(node.gpus / each.gpus) for node in found)
    # Pools take their CPUs before data flows: without room for a reader a night would hang.
    with_cpus = [node.cpus for node in found if node.cpus]
    return sum(math.floor((cpus - READER_CPUS) / each.cpus) for cpus in with_cpus)


def _one_gpu(found: Sequence[Node], device: Device) -> float:
    return float(device != "cpu" and any(node.gpus for node in found))


def _offers(found: Sequence[Node]) -> str:
    return ", ".join(f"{n.cpus:g} CPUs and {n.gpus:g} GPUs" for n in found) or "nothing"
