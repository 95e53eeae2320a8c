"""A Ray cluster that asks for a token, as `ray start` makes it, and jobs submitted to it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import descendants

RAY = Path(sys.executable).with_name("ray")
_PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "ray-client-server-port",
    "metrics-export-port",
    "autoscaler-metrics",
    "dashboard-metrics",
)
_HEAD, _HEAD_ID = "ray.head.default", "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
_FAKE_NODES = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
_READY_S = 60
_END_S = 5


@dataclass(frozen=True)
class Head:
    """A cluster's first node.

    Args:
        pid: of the command that started it and stays.
        environment: of a client that knows the token.
        ports: by the option of `ray start` that says them.
    """

    pid: int
    environment: Mapping[str, str]
    ports: Mapping[str, int]

    @property
    def url(self) -> str:
        """Of its dashboard."""
        return self.environment["RAY_API_SERVER_ADDRESS"]


@contextmanager
def head(
    folder: Path, settings: Mapping[str, str] | None = None, **options: object
) -> Iterator[Head]:
    """A head within a `with` block, with 2 CPUs unless told otherwise.

    Args:
        folder: for its token and its log.
        settings: environment variables of its processes.
        options: of `ray start`.
    """
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    # A Ray of the tests' own process has a token in the environment, which would go first.
    own = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}
    environment = own | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{ports['dashboard-port']}",
        # Two that no option says.
        "AUTOSCALER_METRIC_PORT": str(ports["autoscaler-metrics"]),
        "DASHBOARD_METRIC_PORT": str(ports["dashboard-metrics"]),
        **(settings or {}),
    }
    given: dict[str, object] = {
        name: port for name, port in ports.items() if not name.endswith("-metrics")
    }
    given |= {"dashboard-host": "127.0.0.1", "num-cpus": 2, **options}
    command = [str(RAY), "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in given.items()]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _wait_for(f"{environment['RAY_API_SERVER_ADDRESS']}/api/version", process)
            yield Head(process.pid, environment, ports)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@dataclass(frozen=True)
class Network:
    """Where the nodes of a cluster are.

    Args:
        name: of a network namespace of its own for further nodes; empty: they share the head's.
        head: address of the head.
    """

    name: str = ""
    head: str = "127.0.0.1"

    def command(self, command: Sequence[str]) -> list[str]:
        """The command of a further node."""
        return ["ip", "netns", "exec", self.name, *command] if self.name else list(command)


@contextmanager
def network() -> Iterator[Network]:
    """A second machine's network beside this one, where this process may make one."""
    name, near, far = (f"mrkd{os.getpid()}{end}" for end in ("", "a", "b"))
    ours, theirs = "10.213.77.1", "10.213.77.2"
    steps = (
        f"netns add {name}",
        f"link add {near} type veth peer name {far} netns {name}",
        f"address add {ours}/30 dev {near}",
        f"link set {near} up",
        f"-n {name} address add {theirs}/30 dev {far}",
        f"-n {name} link set {far} up",
        f"-n {name} link set lo up",
    )
    made = shutil.which("ip") and all(
        subprocess.run(["ip", *step.split()], capture_output=True, check=False).returncode == 0
        for step in steps
    )
    try:
        yield Network(name, ours) if made else Network()
    finally:
        if shutil.which("ip"):  # its end of the pair goes with it, and so the other
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@contextmanager
def further_node(first: Head, where: Network, folder: Path, num_cpus: int) -> Iterator[int]:
    """A further node of a cluster on this machine: the pid of the command that keeps it."""
    command = [str(RAY), "start", "--block", "--disable-usage-stats", f"--num-cpus={num_cpus}"]
    command += [f"--address={where.head}:{first.ports['port']}"]
    with (folder / "node.log").open("wb") as log:
        process = subprocess.Popen(
            where.command(command),
            env=first.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process.pid
        finally:
            kill_node(process.pid)
            process.wait()


def kill_node(pid: int) -> None:
    """Ends the command of a node and all its processes at once, as a power cut does."""
    for one in (pid, *(below for below, _ in descendants(pid))):
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def submit(
    command: Sequence[str | Path], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Submits, again while the head has its pages up but not yet its agent, which starts jobs."""
    until = time.monotonic() + _READY_S
    while True:
        job = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=90, check=False
        )
        if "No available agent" not in job.stdout + job.stderr or time.monotonic() > until:
            return job
        time.sleep(1)


def free_ports(number: int) -> list[int]:
    """Below 32768, where nothing is given out by chance, and outside Ray's workers' range."""
    found: list[int] = []
    for port in range(20000 + os.getpid() % 9000, 32768):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                found.append(port)
        if len(found) == number:
            return found
    raise OSError("no free ports")


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Until the server answers, be it that it asks for a token."""
    until = time.monotonic() + _READY_S
    while time.monotonic() < until:
        assert process.poll() is None, "the head ended"
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except urllib.error.HTTPError as error:
            assert error.code == 401
        except OSError:
            time.sleep(0.1)
            continue
        return
    raise TimeoutError(url)


@contextmanager
def sleeping(
    folder: Path, kinds: Mapping[str, Mapping[str, Any]], *, num_cpus: int = 1, idle_s: float = 6.0
) -> Iterator[Head]:
    """A head whose autoscaler adds nodes that are processes of this machine, and ends idle ones.

    Args:
        folder: for its files.
        kinds: of nodes: `resources` of one, and `max_workers`; all are asleep.
        num_cpus: of the head.
        idle_s: seconds without work after which a node is ended.
    """
    (port,) = free_ports(1)
    types = {
        name: {"node_config": {}, "min_workers": 0, **kind} for name, kind in kinds.items()
    } | {_HEAD: {"node_config": {}, "resources": {"CPU": num_cpus}, "max_workers": 0}}
    commands = ("initialization", "setup", "head_setup", "worker_setup")
    config: dict[str, Any] = {
        "cluster_name": "sleeping",
        "max_workers": sum(kind["max_workers"] for kind in kinds.values()),
        "idle_timeout_minutes": idle_s / 60,
        "upscaling_speed": 100,
        "provider": {
            "type": "external",  # the wheel lacks the defaults of `fake_multinode`
            "module": _FAKE_NODES,
            "gcs_address": f"127.0.0.1:{port}",
            "launch_multiple": True,
            "head_node_id": _HEAD_ID,
        },
        "available_node_types": types,
        "head_node_type": _HEAD,
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "cluster_synced_files": [],
        **{f"{name}_commands": [] for name in commands},
        **{f"{name}_start_ray_commands": [] for name in ("head", "worker")},
    }
    (folder / "autoscaler.json").write_text(json.dumps(config))
    settings = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": _HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID,
        "RAY_ADDRESS": config["provider"]["gcs_address"],
        "MRKD_NODES": json.dumps(
            [kind["resources"] | {"max_nodes": kind["max_workers"]} for kind in kinds.values()]
        ),
    }
    options = {"autoscaling-config": folder / "autoscaler.json", "port": port}
    with head(folder, settings, **options, **{"num-cpus": num_cpus}) as first:
        try:
            yield first
        finally:
            for pid, _ in descendants(first.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
