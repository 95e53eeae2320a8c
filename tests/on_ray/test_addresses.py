"""A Ray that cannot be reached or started: known in seconds, by real commands and processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mrkd.runs.on_ray import cluster
from tests.support.answering_server import AnsweringServer
from tests.support.clusters import head

CONNECT = """
import logging
from mrkd.errors import ConfigError
from mrkd.runs.on_ray import cluster
logging.basicConfig(level=logging.WARNING)
try:
    with cluster.connect(num_cpus=1):
        import ray
        print("nodes", len(cluster.nodes()), ray.get(ray.remote(lambda: 7).remote()))
except ConfigError as error:
    print("ConfigError", error)
"""


def outcome(**environment):
    """What a process of its own prints that connects in this environment, and its seconds."""
    own = {name: v for name, v in os.environ.items() if not name.startswith(("RAY_", "TMPDIR"))}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", CONNECT],
        env=own | {"PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr, time.monotonic() - began


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_listens_is_known_within_30_s(scheme):
    printed, seconds = outcome(RAY_ADDRESS=f"{scheme}127.0.0.1:1")
    assert f"ConfigError RAY_ADDRESS is '{scheme}127.0.0.1:1', where no cluster answers" in printed
    assert seconds < 30


def test_a_port_of_something_else_than_ray_is_known_within_30_s():
    with AnsweringServer() as dashboard:
        address = dashboard.endpoint.removeprefix("http://")
        printed, seconds = outcome(RAY_ADDRESS=address)
    assert f"ConfigError RAY_ADDRESS is '{address}', where no cluster answers" in printed
    assert seconds < 30


@pytest.mark.parametrize(
    "address",
    [
        "head-node",
        "http://127.0.0.1:8265",
        "host:99999",
        "[::1",
        "a..b:6379",
        "ray://" + "y" * 70 + ":10001",
    ],
)
def test_what_is_not_an_address_of_ray_is_refused_at_once(address):
    printed, seconds = outcome(RAY_ADDRESS=address)
    assert "which is not an address of a cluster: write host:port" in printed
    assert seconds < 10


def test_a_cluster_that_lives_is_used(tmp_path):
    with head(tmp_path) as started:
        token = Path(started.environment["RAY_AUTH_TOKEN_PATH"])
        printed, _ = outcome(
            RAY_ADDRESS=f"127.0.0.1:{started.ports['port']}",
            RAY_AUTH_MODE="token",
            RAY_AUTH_TOKEN_PATH=str(token),
        )
        # The port of Ray's client greets as the other does.
        cluster._wait_for_answer(f"ray://127.0.0.1:{started.ports['ray-client-server-port']}")
    assert "nodes 1 7" in printed


@pytest.mark.parametrize("folder", ["long", "relative"])
def test_a_tmpdir_that_sockets_cannot_be_below_is_replaced(tmp_path, folder):
    path = tmp_path / ("x" * 100)
    path.mkdir()
    printed, _ = outcome(TMPDIR=str(path) if folder == "long" else "tmp", RAY_TMPDIR="")
    assert "ray_tmpdir folder=/tmp reason=TMPDIR is not a path from / on of at most" in printed
    assert "nodes 1 7" in printed


def test_a_ray_tmpdir_that_cannot_be_used_is_an_error_before_ray_starts(tmp_path):
    path = tmp_path / ("x" * 100)
    path.mkdir()
    printed, _ = outcome(RAY_TMPDIR=str(path))
    assert f"ConfigError RAY_TMPDIR is '{path}': set it to a path from / on" in printed
    assert not list(path.iterdir())
    (tmp_path / "file").touch()
    for folder in ("/proc/1", "/etc/passwd"):
        printed, _ = outcome(RAY_TMPDIR=folder)
        assert f"ConfigError Ray cannot write its temporary files below '{folder}'" in printed
