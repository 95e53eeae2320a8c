"""Fleet, search and night as a plant runs them: `ray job submit` to a cluster that asks a token."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from mrkd.config import ArchiveConfig, ScoreConfig
from mrkd.manifests import open_night
from tests.support.models import small_config
from tests.support.parts import make_parts
from tests.support.searches import small_search

TOP = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")


@pytest.fixture
def cluster(tmp_path):
    """The environment of a client of a head that was started with token authentication."""
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    port, dashboard, agent, client = free_ports(4)
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    options = {
        "port": port,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "ray-client-server-port": client,
        "num-cpus": 2,
    }
    command = [str(RAY), "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with (tmp_path / "head.log").open("wb") as log:
        head = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for(f"http://127.0.0.1:{dashboard}/api/version", head)
            yield environment
        finally:
            head.send_signal(signal.SIGTERM)
            try:
                head.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(head.pid, signal.SIGKILL)
                head.wait()


def submit(command, environment):
    """Submits, again while the head has its pages up but not yet its agent, which starts jobs."""
    until = time.monotonic() + 60
    while True:
        job = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=90, check=False
        )
        if "No available agent" not in job.stdout + job.stderr or time.monotonic() > until:
            return job
        time.sleep(1)


def free_ports(number):
    """Below 32768, where nothing is given out by chance, and outside Ray's workers' range."""
    found = []
    for port in range(20000 + os.getpid() % 9000, 32768):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                found.append(port)
        if len(found) == number:
            return found
    raise OSError("no free ports")


def wait_for(url, process):
    """Until the server answers, be it that it asks for a token."""
    for _ in range(600):
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


def run_job(verb, config, tmp_path, environment):
    """What a submitted job said, and its verdict in the workspace."""
    (tmp_path / f"{verb}.toml").write_text(config.to_toml())
    entrypoint = [sys.executable, "-m", f"jobs.{verb}", tmp_path / f"{verb}.toml"]
    excludes = ["--runtime-env-json", '{"excludes": ["tests"]}']
    command = [RAY, "job", "submit", "--working-dir", TOP, *excludes, "--", *entrypoint]
    job = submit(command, environment)
    folder = {"train": "fleets", "score": "nights", "tune": "searches"}[verb]
    place = Path(config.workspace) / folder / config.run / "summary.json"
    assert place.exists(), job.stdout + job.stderr
    verdict = json.loads(place.read_text())
    assert json.dumps(verdict, ensure_ascii=False) in job.stdout
    return job, verdict


def test_a_submitted_fleet_search_and_night_end_with_their_verdicts_in_the_workspace(
    tmp_path, cluster
):
    root, workspace = make_parts(tmp_path / "parts", 1), tmp_path / "workspace"
    fleet = small_config(str(root), str(workspace), run="fleet-1")
    job, verdict = run_job("train", fleet, tmp_path, cluster)
    assert (job.returncode, verdict["counts"]["trained"]) == (0, 1)
    search = small_search(tmp_path, root, **{"search.trials": 2, "search.refit_seeds": 1})
    job, verdict = run_job("tune", search, tmp_path, cluster)
    assert (job.returncode, verdict["counts"]["trials"]) == (0, 2)
    archive = tmp_path / "archive"
    archive.mkdir()
    (root / "plate" / "test" / "good").rename(archive / "plate")
    (archive / "plate" / "empty.png").touch()
    night = ScoreConfig(str(workspace), "night-1", ArchiveConfig(str(archive)))
    job, verdict = run_job("score", night, tmp_path, cluster)
    # One image of seven is an error: exit code 3, which `ray job submit` turns into 1.
    assert job.returncode == 1
    assert (verdict["exit_code"], verdict["state"]) == (3, "partial"), job.stdout
    rows = open_night(str(workspace / "nights" / "night-1")).to_table()
    assert sorted(rows["image_uri"].to_pylist()) == [
        f"file://{path}" for path in sorted((archive / "plate").iterdir())
    ]
    assert rows["error_kind"].to_pylist().count("empty") == 1
