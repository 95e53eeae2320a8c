"""The driver of a job, on a head with the arguments and environment that `cluster/` gives it."""

import json
import re
import sys
import time
from pathlib import Path

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from tests.support.clusters import head
from tests.support.kubernetes import of_kind, rendered

CLUSTER = Path(__file__).parents[2] / "cluster"
NIGHT = of_kind(rendered(CLUSTER / "kuberay" / "jobs"), "RayJob")["mrkd-night"]["spec"]
_WAIT_S = 90
_END_S = 6
"""What the driver takes to end; Ray's own default is 3 s."""


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client of a head that is started as the template starts it."""
    parameters = dict(NIGHT["rayClusterSpec"]["headGroupSpec"]["rayStartParams"])
    del parameters["metrics-export-port"]  # another one, as other tests have heads too
    # KubeRay puts it into a shell's command line, which takes the outer quotes.
    parameters["resources"] = json.loads(parameters["resources"])
    text = (CLUSTER / "Dockerfile").read_text()
    image = dict(re.findall(r"^(?:ENV)? +(RAY_\w+)=(\w+)", text, re.MULTILINE))
    assert "RAY_JOB_STOP_WAIT_TIME_S" in image
    folder = tmp_path_factory.mktemp("head")
    with pytest.MonkeyPatch.context() as patch, head(folder, image, **parameters) as one:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
            patch.setenv(name, one.environment[name])
        patch.delenv("RAY_AUTH_TOKEN", raising=False)
        yield JobSubmissionClient(one.url)


def submitted(client, entrypoint):
    """A job, submitted as KubeRay submits it."""
    until = time.monotonic() + _WAIT_S
    while True:
        try:
            return client.submit_job(
                entrypoint=entrypoint,
                entrypoint_resources=json.loads(NIGHT["entrypointResources"]),
            )
        except RuntimeError as error:  # the head has its pages up, not yet its agent
            if "No available agent" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(1)


def end(client, job):
    until = time.monotonic() + _WAIT_S
    while not (status := client.get_job_status(job)).is_terminal():
        assert time.monotonic() < until, client.get_job_logs(job)
        time.sleep(0.2)
    return status


@pytest.mark.parametrize(("code", "status"), [(3, JobStatus.SUCCEEDED), (1, JobStatus.FAILED)])
def test_a_driver_runs_on_a_head_without_cpus_and_exit_code_3_is_no_failure(client, code, status):
    command, _, rest = NIGHT["entrypoint"].partition("||")
    assert command.startswith("mrkd score")
    job = submitted(client, f"sh -c 'exit {code}' || {rest}")
    assert end(client, job) == status


def test_a_stopped_driver_has_the_time_to_write_its_summary(client, tmp_path):
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
    job = submitted(client, f"{sys.executable} {script} || {rest}")
    until = time.monotonic() + _WAIT_S
    while "ready" not in client.get_job_logs(job):
        assert time.monotonic() < until
        time.sleep(0.2)
    client.stop_job(job)
    assert end(client, job) == JobStatus.STOPPED
    assert written.read_text() == "verdict"
