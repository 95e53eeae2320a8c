"""The Ray cluster that a command runs on: its connection, its nodes, and how a worker begins."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray

from mrkd.errors import ConfigError
from mrkd.runs.on_ray import private
from mrkd.runs.resources import Node, Resources, usable_cpus

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
    private.IDLE_WORKER_VARIABLE: "60000",
}
_SOCKET_BYTES = 107
"""Bytes that the path of a local socket may have; Ray ends without a word of advice above them."""
_ANSWER_S, _TRY_S = 15.0, 5.0
NODES_VARIABLE = "MRKD_NODES"
"""Environment variable: the kinds of nodes that the cluster's autoscaler may add, as JSON."""
_MAX_NODES = "max_nodes"
_MOST_NODES = 1000
"""Nodes of one kind that are counted where an autoscaler's bound is above it, or has no meaning."""
_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""HTTP/2's frame of settings without one: length 0, type 4."""
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS

log = logging.getLogger(__name__)


@contextmanager
def connect(*, num_cpus: int | None = None, dashboard: bool = False) -> Iterator[None]:
    """Uses the Ray of this process, else the cluster at `RAY_ADDRESS`, else starts a local one.

    At its end it shuts down only what it started.

    Args:
        num_cpus: number of CPUs of a local Ray; None: all that this process may use.
        dashboard: whether a local Ray serves its dashboard.

    Raises:
        ConfigError: no cluster answers at `RAY_ADDRESS`, or a local one has no folder for its
            temporary files; or `MRKD_NODES` does not hold nodes.
    """
    if ray.is_initialized():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    own: dict[str, Any] = {
        "num_cpus": num_cpus or usable_cpus(),
        "include_dashboard": dashboard,
        "address": "local",
    }
    address = os.environ.get("RAY_ADDRESS")
    for name, value in _LOCAL_ENVIRONMENT.items() if not address else ():
        os.environ.setdefault(name, value)
    if not address:
        _choose_temporary_folder()
    elif address not in ("auto", "local"):
        _wait_for_answer(address)
    try:
        ray.init(logging_level=logging.WARNING, **({} if address else own))
    except ConnectionError as error:
        raise _no_answer(address) from error
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray replaces the handler; this restores it
    try:
        _report_nodes()
        yield
    finally:
        ray.shutdown()


def _choose_temporary_folder() -> None:
    """Sets `RAY_TMPDIR`, to /tmp where `TMPDIR` cannot hold the sockets of a local Ray.

    Raises:
        ConfigError: `RAY_TMPDIR` itself cannot, or nothing can be written there.
    """
    given = ((name, os.environ.get(name)) for name in ("RAY_TMPDIR", "TMPDIR"))
    name, folder = next(((name, value) for name, value in given if value), ("", "/tmp"))
    session = f"session_{datetime.now(UTC):%Y-%m-%d_%H-%M-%S_%f}_{os.getpid()}"
    most = _SOCKET_BYTES - len(f"/ray/{session}/sockets/plasma_store")
    if not folder.startswith("/") or len(os.fsencode(folder)) > most:
        what = f"a path from / on of at most {most} bytes, as Ray's sockets are below it"
        if name == "RAY_TMPDIR":
            raise ConfigError(f"RAY_TMPDIR is {folder!r}: set it to {what}; /tmp will do")
        log.warning("ray_tmpdir folder=/tmp reason=TMPDIR is not %s", what)
        folder = "/tmp"
    try:
        Path(folder, "ray").mkdir(parents=True, exist_ok=True)
        writable = os.access(Path(folder, "ray"), os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        raise ConfigError(
            f"Ray cannot write its temporary files below {folder!r}: set RAY_TMPDIR to a folder "
            "that this user may write to"
        )
    os.environ["RAY_TMPDIR"] = folder


def _wait_for_answer(address: str) -> None:
    """Returns once something listens at an address; Ray itself would wait for many minutes.

    Raises:
        ConfigError: the address is not one of Ray, or nobody answers there.
    """
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # as its look-up does
    except ValueError:  # of the encoding too
        host = port = None
    if not (host and port) or parts.scheme not in ("", "ray"):
        raise ConfigError(
            f"RAY_ADDRESS is {address!r}, which is not an address of a cluster: write host:port "
            "(mostly port 6379), ray://host:port (10001), auto or local"
        )
    error: OSError | None
    until = time.monotonic() + _ANSWER_S
    while True:
        try:
            with socket.create_connection((host, port), timeout=_TRY_S) as stream:
                if os.environ.get("RAY_USE_TLS") == "1" or _speaks_grpc(stream):
                    return
            error = None
        except OSError as refused:
            error = refused
        if time.monotonic() > until:
            raise _no_answer(address) from error
        time.sleep(0.5)


def _speaks_grpc(stream: socket.socket) -> bool:
    """Whether the other end greets as HTTP/2 does; Ray's dashboard, at another port, does not."""
    stream.sendall(_GREETING)
    head = b""
    while len(head) < len(_SETTINGS) and (more := stream.recv(len(_SETTINGS) - len(head))):
        head += more
    return head[3:4] == _SETTINGS[3:4]


def _no_answer(address: str | None) -> ConfigError:
    return ConfigError(
        f"RAY_ADDRESS is {address!r}, where no cluster answers: start it, correct the address "
        "(host:port, mostly 6379; ray://host:port, 10001), or unset the variable to run on this "
        "machine"
    )


def nodes() -> list[Node]:
    """Every live node, and those that an autoscaler may still add."""
    live = live_nodes()
    return live + _asleep(live)


def sleeping_nodes() -> list[Node]:
    """The nodes that an autoscaler may still add."""
    return _asleep(live_nodes())


def live_nodes() -> list[Node]:
    """Every live node."""
    return [_node(node["Resources"], node.get("Labels") or {}) for node in _alive()]


def is_alive(node_id: str) -> bool:
    """Whether a node is live, by its id."""
    return any(node["NodeID"] == node_id for node in _alive())


def is_autoscaled() -> bool:
    """Whether an autoscaler may replace a missing node."""
    return bool(_autoscaled())


def _asleep(live: Sequence[Node]) -> list[Node]:
    added: list[Node] = []
    for kind, most in _autoscaled().items():
        added += [kind] * (min(most, _MOST_NODES) - live.count(kind))
    return added


def _alive() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in found if node["Alive"]]


def _autoscaled() -> Counter[Node]:
    """The kinds of nodes that an autoscaler may add, each with its largest number."""
    kinds: Counter[Node] = Counter()
    for resources, most in private.autoscaled_groups():
        kinds[_node(resources)] += most
    return kinds


def _report_nodes() -> None:
    """Tells Ray the kinds of nodes of `MRKD_NODES`, if it is set.

    Ray keeps what its autoscaler may add where Data and Train read it, and fills it on hosted
    clusters only (2.60; ray#63012): elsewhere a cluster that sleeps seems to be its head.

    Raises:
        ConfigError: `MRKD_NODES` is not a list of nodes in JSON.
    """
    said = os.environ.get(NODES_VARIABLE, "")
    if not said:
        return
    try:
        groups = []
        for one in json.loads(said):
            resources = {key: float(value) for key, value in one.items() if key != _MAX_NODES}
            groups.append((resources, int(one[_MAX_NODES])))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{NODES_VARIABLE} is {said!r} ({type(error).__name__}: {error}): write the kinds of "
            'nodes as [{"CPU": 16, "GPU": 1, "max_nodes": 4}]'
        ) from error
    private.report_groups(groups)


def enter_worker(resources: Resources) -> None:
    """Sets torch's threads and memory and the log; first in a worker that computes with torch.

    Raises:
        DeviceError: it holds a GPU that PyTorch cannot use.
    """
    import torch

    from mrkd.model import device

    log_to_driver()
    torch.set_num_threads(resources.threads)
    if not resources.gpus:
        return
    device.check_granted(resources.device)
    if resources.gpus < 1 and torch.cuda.is_available():
        # Who shares a GPU keeps to its part, or the others would fail for it.
        torch.cuda.set_per_process_memory_fraction(resources.gpus)


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


def _node(resources: Mapping[str, float], labels: Mapping[str, str] | None = None) -> Node:
    return Node(
        float(resources.get("CPU", 0)),
        float(resources.get("GPU", 0)),
        float(resources.get("memory", math.inf)),
        None if labels is None else frozenset(f"{key}={value}" for key, value in labels.items()),
    )


def label_selector(labels: Sequence[str]) -> dict[str, str]:
    """Ray's selector of nodes with these labels, written as `key=value`."""
    return dict(label.split("=", 1) for label in labels)
