"""The Ray cluster that a command runs on, and the resources of its workers."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import ray

from mrkd.config import Device, EvalConfig, PoolConfig, TrainConfig
from mrkd.errors import ConfigError

_STOP_S = 2.0
# For a Ray of our own; on a cluster its operator decides (cluster/runtime_env.yaml).
_LOCAL_ENVIRONMENT = {
    # Where Ray was imported before this package, which would have required a token. By default 2.60
    # turns tokens on by itself, depending on the files in the home folder.
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's coming default; without it, Ray warns at each start.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Threads that spin while they wait take the cores from the other processes of a small machine.
    "OMP_WAIT_POLICY": "PASSIVE",
    # A worker costs seconds of imports. By default one that idles for a second is ended while there
    # are more workers than CPUs, and a small machine would start them over and over.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
}

READER_CPUS = 0.5
"""CPUs of a task that reads and decodes a shard, or writes one: it waits more than it works."""


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

    @property
    def by_name(self) -> dict[str, float]:
        """CPUs, and GPUs where there are any, by Ray's names."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


@dataclass(frozen=True)
class Pool:
    """Number of scorers, and the resources of each."""

    size: int
    each: Resources


@contextmanager
def connect(*, num_cpus: int | None = None, dashboard: bool = False) -> Iterator[None]:
    """Uses the Ray of this process, else the cluster at `RAY_ADDRESS`, else starts a local one.

    At its end it shuts down only what it started.

    Args:
        num_cpus: number of CPUs of a local Ray; None: all of the machine's.
        dashboard: whether a local Ray serves its dashboard.

    Raises:
        ConfigError: no cluster answers at `RAY_ADDRESS`.
    """
    if ray.is_initialized():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    own: dict[str, Any] = {"num_cpus": num_cpus, "include_dashboard": dashboard, "address": "local"}
    address = os.environ.get("RAY_ADDRESS")
    for name, value in _LOCAL_ENVIRONMENT.items() if not address else ():
        os.environ.setdefault(name, value)
    try:
        ray.init(logging_level=logging.WARNING, **({} if address else own))
    except ConnectionError as error:
        raise ConfigError(
            f"RAY_ADDRESS is {address!r}, where no cluster answers: start it, or unset the "
            "variable to run on this machine"
        ) from error
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray replaces the handler; this restores it
    try:
        yield
    finally:
        ray.shutdown()


def nodes() -> list[Node]:
    """Every live node, and each kind that an autoscaler may add and no live node covers."""
    alive: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    live = [_node(node["Resources"]) for node in alive if node["Alive"]]
    return live + [
        kind
        for kind in _autoscaled()
        if not any(n.cpus >= kind.cpus and n.gpus >= kind.gpus for n in live)
    ]


def is_autoscaled() -> bool:
    """Whether an autoscaler may replace a missing node."""
    return bool(_autoscaled())


def _autoscaled() -> list[Node]:
    """The kinds of nodes that an autoscaler may add."""
    # Not public, but Ray Train itself asks it before it waits for workers: a cluster whose GPU
    # nodes are asleep has none among its live ones.
    config = ray._private.state.state.get_cluster_config()
    groups = config.node_group_configs if config else []
    return [_node(group.resources) for group in groups if group.max_count]


def fleet_resources(config: TrainConfig | EvalConfig, num_workers: int) -> Resources:
    """The resources of each of some equal workers on this cluster: see `worker_resources`."""
    return worker_resources(
        nodes(),
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
        found: the cluster's `nodes`.
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
    node = max(fits, key=lambda node: (node.gpus, node.cpus))
    at_once = math.floor(node.gpus / gpus) if gpus else math.floor(node.cpus)
    share = node.cpus / max(1, min(at_once, num_workers))
    # Whole CPUs; a fraction of one for each worker where many share a GPU and few CPUs.
    cpus = cpus or (float(math.floor(share)) if share >= 1 else math.floor(share * 1000) / 1000)
    return Resources(cpus, gpus, threads=max(1, math.floor(cpus)))


def groups_at_once(found: Sequence[Node], each: Resources, size: int) -> int:
    """Number of groups of workers that the nodes hold at one time.

    Args:
        found: the cluster's `nodes`.
        each: resources of each worker.
        size: number of workers of a group.

    Raises:
        ConfigError: the cluster can never hold one group.
    """
    room = sum(
        math.floor(min(node.cpus / each.cpus, node.gpus / each.gpus if each.gpus else math.inf))
        for node in found
    )
    if room < size:
        raise ConfigError(
            f"{size} workers_per_category of {each.cpus:g} CPUs and {each.gpus:g} GPUs each: the "
            f"nodes ({_offers(found)}) have room for {room}: lower workers_per_category, "
            "cpus_per_worker or gpus_per_worker"
        )
    return room // size


@contextmanager
def stoppable(stopped: Callable[[], None]) -> Iterator[None]:
    """Turns SIGTERM, by which schedulers and `ray job stop` end a job, into a KeyboardInterrupt.

    Outside of the main thread, where Python handles no signals, it changes nothing.

    Args:
        stopped: called at the signal, since SIGKILL follows after 3 s; in a thread of its own, as
            the one that was interrupted may hold a lock that the call needs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> NoReturn:
        thread = threading.Thread(target=stopped, daemon=True)
        thread.start()
        thread.join(_STOP_S)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
        each = Resources(0.0, gpus)
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


def enter_worker(resources: Resources) -> None:
    """Sets torch's threads and the log; called first in a worker that computes with torch."""
    import torch

    torch.set_num_threads(resources.threads)
    log_to_driver()


def log_to_driver() -> None:
    """Sends the log to stderr, which Ray forwards to the driver; called first in every worker.

    It does not load torch: in a process that only reads or writes, that would take 2 of the 4 s of
    CPU that it needs to start, and 180 of its 360 MB.
    """
    logger = logging.getLogger("mrkd")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        # Ray Train's workers have a handler at the root, which would log everything twice.
        logger.propagate = False
    # Ray Train's own lines do not name the category.
    logging.getLogger("ray.train").setLevel(logging.WARNING)


def _node(resources: Mapping[str, float]) -> Node:
    return Node(float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))


def _one_gpu(found: Sequence[Node], device: Device) -> float:
    return float(device != "cpu" and any(node.gpus for node in found))


def _offers(found: Sequence[Node]) -> str:
    return ", ".join(f"{n.cpus:g} CPUs and {n.gpus:g} GPUs" for n in found) or "nothing"
