"""What a cluster lets in: its open ports are those of the list, and no job without the token."""

import os
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from tests.support.clusters import RAY, head
from tests.support.kubernetes import of_kind, rendered
from tests.support.listeners import listeners

CLUSTER = Path(__file__).parents[2] / "cluster"
PORTS = tomllib.loads((CLUSTER / "ports.toml").read_text())
_UP_S = 60


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A head that has opened all that it opens."""
    with head(tmp_path_factory.mktemp("head")) as one:
        until = time.monotonic() + _UP_S
        while len(listeners(one.pid)) < sum(len(port["listens"]) for port in PORTS.values()):
            if time.monotonic() > until:
                break  # the test says what is missing
            time.sleep(0.2)
        yield one


def answer(url, token=""):
    """The status of an HTTP request, by this token if there is one."""
    request = urllib.request.Request(url)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as found:
            return found.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_head_opens_the_ports_of_the_list_and_no_other(started):
    names = {number: option for option, number in started.ports.items()}
    processes = {port["process"] for port in PORTS.values()}
    found = Counter(
        (next((p for p in processes if p in one.title), one.title), names.get(one.port), one.where)
        for one in listeners(started.pid)
    )
    expected = Counter(
        (port["process"], port.get("option"), where)
        for port in PORTS.values()
        for where in port["listens"]
    )
    assert found == expected


@pytest.mark.parametrize("name", [n for n, port in PORTS.items() if "metrics" in n])
def test_metrics_answer_without_a_token_which_is_why_the_policy_names_who_may_ask(started, name):
    url = f"http://127.0.0.1:{started.ports[PORTS[name]['option']]}/metrics"
    assert (answer(url), PORTS[name]["token"]) == (200, False)


def test_a_request_without_the_token_or_with_another_is_refused(started):
    token = Path(started.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    for path in ("/api/jobs/", "/nodes?view=summary"):
        assert (answer(started.url + path), answer(started.url + path, "0" * 64)) == (401, 403), (
            path
        )
        assert answer(started.url + path, token) == 200, path
    assert answer(started.url + "/") == 200  # the page alone: it holds nothing of the cluster


@pytest.mark.parametrize("token", [None, "0" * 64])
def test_a_job_without_the_token_or_with_another_is_refused(started, tmp_path, token):
    environment = {k: v for k, v in started.environment.items() if not k.startswith("RAY_AUTH")}
    environment |= {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token" if token else "disabled"}
    if token:
        environment["RAY_AUTH_TOKEN"] = token
    witness = tmp_path / "witness"
    command = [RAY, "job", "submit", "--", "touch", witness]
    job = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert job.returncode == 1
    assert "token" in job.stdout + job.stderr
    assert not witness.exists()


def test_the_policy_opens_to_others_the_dashboard_and_the_metrics_alone():
    policy = of_kind(rendered(CLUSTER / "kuberay" / "base"), "NetworkPolicy")["mrkd-nodes"]["spec"]
    own = {"podSelector": policy["podSelector"]}
    opened = {
        port["port"]
        for rule in policy["ingress"]
        if rule["from"] != [own]
        for port in rule["ports"]
    }
    metrics = {port["number"] for name, port in PORTS.items() if "metrics" in name}
    assert opened == {PORTS["dashboard"]["number"], *metrics}


def test_a_ray_of_this_machine_runs_nothing_of_whoever_lacks_its_token(tmp_path):
    driver = (
        "from mrkd.runs.on_ray import cluster\n"
        "import ray\n"
        "with cluster.connect(num_cpus=1):\n"
        "    print(ray.get_runtime_context().gcs_address, flush=True)\n"
        "    input()\n"
    )
    intruder = (
        "import pathlib, sys, ray\n"
        "ray.init(address=sys.argv[1], logging_level='ERROR')\n"
        "ray.get(ray.remote(num_cpus=0)(pathlib.Path.touch).remote(pathlib.Path(sys.argv[2])))\n"
    )
    witness = tmp_path / "witness"
    strange = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    strange |= {"HOME": str(tmp_path), "PYTHONPATH": str(CLUSTER.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", driver],
        env=strange,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        address = started.stdout.readline().strip()
        done = subprocess.run(
            [sys.executable, "-c", intruder, address, str(witness)],
            # By default it is refused twenty times, a second apart.
            env=strange | {"RAY_AUTH_MODE": "disabled", "RAY_NUM_REDIS_GET_RETRIES": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        started.communicate("done\n", timeout=60)
    assert (started.returncode, done.returncode) == (0, 1)
    assert "AuthenticationError" in done.stderr
    assert not witness.exists()
