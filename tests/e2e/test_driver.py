"""The driver of a job, on a head with the arguments and environment that `cluster/` gives it."""

import json
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.clusters import head
from tests.support.kubernetes import of_kind, rendered

CLUSTER = Path(__file__).parents[2] / "cluster"
NIGHT = of_kind(rendered(CLUSTER / "kuberay" / "jobs"), "RayJob")["mrkd-night"]["spec"]
_WAIT_S = 120
_END_S = 6
"""What the driver takes to end; Ray's own default is 3 s."""


class Jobs:
    """Jobs of a head, by the HTTP requests that KubeRay makes."""

    def __init__(self, first):
        token = Path(first.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        self._url = f"{first.url}/api/jobs/"
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def ask(self, path="", body=None, method=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, self._headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def submit(self, entrypoint):
        asked = json.loads(NIGHT["entrypointResources"])
        body = {"entrypoint": entrypoint, "entrypoint_resources": asked}
        until = time.monotonic() + _WAIT_S
        while True:
            try:
                return self.ask(body=body)["submission_id"]
            except urllib.error.HTTPError as error:
                # The head has its pages up, not yet its agent.
                if error.code != 500 or time.monotonic() > until:
                    raise
                time.sleep(1)

    def logs(self, job):
        return self.ask(f"{job}/logs")["logs"]

    def end(self, job):
        until = time.monotonic() + _WAIT_S
        while (status := self.ask(job)["status"]) in ("PENDING", "RUNNING"):
            assert time.monotonic() < until, self.logs(job)
            time.sleep(0.2)
        return status


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Jobs of a head that is started as the template starts it."""
    parameters = dict(NIGHT["rayClusterSpec"]["headGroupSpec"]["rayStartParams"])
    del parameters["metrics-export-port"]  # another one, as other tests have heads too
    # KubeRay puts it into a shell's command line, which takes the outer quotes.
    parameters["resources"] = json.loads(parameters["resources"])
    text = (CLUSTER / "Dockerfile").read_text()
    image = dict(re.findall(r"^(?:ENV)? +(RAY_\w+)=(\w+)", text, re.MULTILINE))
    assert "RAY_JOB_STOP_WAIT_TIME_S" in image
    with head(tmp_path_factory.mktemp("head"), image, **parameters) as one:
        yield Jobs(one)


@pytest.mark.parametrize(("code", "status"), [(3, "SUCCEEDED"), (1, "FAILED")])
def test_a_driver_runs_on_a_head_without_cpus_and_exit_code_3_is_no_failure(jobs, code, status):
    command, _, rest = NIGHT["entrypoint"].partition("||")
    assert command.startswith("mrkd score")
    assert jobs.end(jobs.submit(f"sh -c 'exit {code}' || {rest}")) == status


def test_a_stopped_driver_has_the_time_to_write_its_summary(jobs, tmp_path):
    script, written = tmp_path / "driver.py", tmp_path / "summary.json"
    script.write_text(f"""
import signal, sys, time
from pathlib import Path
def end(*_):
    time.sleep({_END_S})
    Path({str(written)!r}).write_text("verdict")
    sys.exit(1)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep({_WAIT_S})
""")
    _, _, rest = NIGHT["entrypoint"].partition("||")
    job = jobs.submit(f"{sys.executable} {script} || {rest}")
    until = time.monotonic() + _WAIT_S
    while "ready" not in jobs.logs(job):
        assert time.monotonic() < until
        time.sleep(0.2)
    jobs.ask(f"{job}/stop", method="POST")
    assert jobs.end(job) == "STOPPED"
    assert written.read_text() == "verdict"
