"""`cluster/kuberay/base/start.py`: a RayJob from its template, and the verdict of its run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from mrkd.run_summary import Summary
from tests.support import kuberay
from tests.support.kubernetes import api, rendered

KUBERAY = Path(__file__).parents[2] / "cluster" / "kuberay"
START = KUBERAY / "base" / "start.py"
CREATED = "2026-11-24T01:30:00Z"
BEFORE, AFTER = "2026-11-24T01:00:00+00:00", "2026-11-24T02:00:00+00:00"
COMPLETE, FAILED = {"jobDeploymentStatus": "Complete"}, {"jobDeploymentStatus": "Failed"}
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}


class Plant:
    """A workspace, templates that read its configs, and an API."""

    def __init__(self, folder, server):
        self.folder, self.server = folder, server
        self.workspace = folder / "workspace"
        config = f'workspace = "{self.workspace}"\nrun = "night-{{date}}"\n'
        config += f'[archive]\nuri = "{folder}/{{date}}"\n'
        (folder / "night.toml").write_text(config)
        text = "---\n".join(json.dumps(one) + "\n" for one in rendered(KUBERAY / "eks" / "jobs"))
        self.templates = folder / "jobs.yaml"
        self.templates.write_text(text.replace("s3://plant/mrkd/configs", str(folder)))

    def store(self, day, exit_code, started_at=AFTER):
        summary = Summary("score", f"night-{day}", exit_code, "done", started_at=started_at)
        file = self.workspace / "nights" / f"night-{day}" / "summary.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(summary.to_json())

    def start(self, name="mrkd-night", job="mrkd-night-29412345", poll_s=0.01, date="2026-11-23"):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"JOB_NAME": job, "JOB_UID": "u-1", "PATH": path, "TZ": "Europe/Vienna"}
        command = [sys.executable, START, name, f"--templates={self.templates}"]
        command += [f"--api={self.server.url}", f"--account={self.server.account}"]
        done = subprocess.run(
            [*command, f"--poll-s={poll_s}"],
            env={**os.environ, **own, "DATE": date},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self.output = done.stdout + done.stderr
        return done.returncode


@pytest.fixture
def plant(tmp_path):
    account = tmp_path / "account"
    account.mkdir()
    with api(account, CREATED) as server:
        server.answers = [COMPLETE]
        yield Plant(tmp_path, server)


def test_the_job_that_is_created_is_the_template_for_a_day_and_belongs_to_its_start(plant):
    plant.store("2026-11-23", 0)
    plant.server.answers = [{}, RUNNING, COMPLETE]
    assert plant.start() == 0, plant.output
    (job,) = plant.server.jobs.values()
    jsonschema.validate(job, kuberay.SCHEMAS["RayJob"])
    assert kuberay.refusals(job) == []
    assert job["metadata"]["name"] == "mrkd-night-29412345"
    assert job["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": "mrkd-night-29412345", "uid": "u-1"}
    ]
    assert "--date 2026-11-23 --late-window 3d" in job["spec"]["entrypoint"]
    assert '"run": "night-2026-11-23"' in plant.output


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_the_exit_code_is_the_run_s(plant, code):
    plant.store("2026-11-23", code)
    assert plant.start() == code, plant.output


def test_a_night_of_the_late_window_counts_if_this_start_wrote_it(plant):
    plant.store("2026-11-23", 0)
    plant.store("2026-11-21", 3)
    assert plant.start() == 3, plant.output
    plant.store("2026-11-21", 3, BEFORE)
    assert plant.start() == 0, plant.output


def test_a_night_that_had_nothing_new_keeps_its_verdict(plant):
    plant.store("2026-11-23", 3, BEFORE)
    assert plant.start() == 3, plant.output


def test_a_job_without_a_summary_failed(plant):
    assert plant.start() == 1, plant.output
    assert "summary.json" in plant.output


def test_a_job_that_failed_is_a_failure_whatever_an_earlier_start_stored(plant):
    plant.store("2026-11-23", 0, BEFORE)
    plant.server.answers = [FAILED | {"message": "the head was lost"}]
    assert plant.start() == 1, plant.output
    assert "the head was lost" in plant.output


def test_a_pod_that_replaces_another_waits_for_the_same_job_and_the_same_day(plant):
    plant.store("2026-11-23", 3)
    assert plant.start() == 3, plant.output
    (before,) = plant.server.jobs.values()
    assert plant.start(date="2026-11-24") == 3, plant.output  # after midnight
    assert list(plant.server.jobs.values()) == [before]


def test_an_api_that_is_away_for_a_while_changes_nothing(plant):
    plant.store("2026-11-23", 0)
    plant.server.answers = [RUNNING, 500, 503, 429, COMPLETE]
    assert plant.start() == 0, plant.output


def test_an_api_that_stays_away_is_left_to_another_pod(plant):
    plant.server.answers = [500]
    assert plant.start(poll_s=0.001) == 4, plant.output
    plant.server.refusal = 503
    assert plant.start(job="another") == 4, plant.output
    plant.server.url = "https://127.0.0.1:9"
    assert plant.start() == 4, plant.output


def test_a_server_that_another_authority_vouches_for_gets_no_token(plant, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    with api(other, CREATED):
        shutil.copy(other / "ca.crt", plant.server.account)
    assert plant.start() == 4, plant.output
    assert "CERTIFICATE_VERIFY_FAILED" in plant.output
    assert not plant.server.jobs


def test_a_job_that_somebody_deletes_is_a_failure(plant):
    plant.server.answers = [RUNNING, 404]
    assert plant.start() == 1, plant.output


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"name": "mrkd-knight"}, "mrkd-night"),
        ({"job": "x" * 48}, "47 characters"),
        ({"date": "yesterday"}, "yesterday"),
    ],
    ids=str,
)
def test_what_cannot_be_started_is_refused_before_there_is_a_cluster(plant, change, part):
    assert plant.start(**change) == 2
    assert part in plant.output
    assert not plant.server.jobs


def test_a_wrong_config_and_a_creation_that_is_denied_are_refused(plant):
    plant.server.refusal = 403
    assert plant.start() == 2
    assert "denied" in plant.output
    config = plant.folder / "night.toml"
    config.write_text("wrkspace = 1\n" + config.read_text())
    plant.server.refusal = 0
    assert plant.start() == 2
    assert "wrkspace" in plant.output
    assert not plant.server.jobs


def test_without_a_date_a_night_is_yesterday_s_by_the_clock_of_the_plant(plant):
    assert plant.start(date="") == 1  # no summary
    (job,) = plant.server.jobs.values()
    words = job["spec"]["entrypoint"].split()
    day = subprocess.run(
        ["date", "-d", "yesterday", "+%F"],
        env={**os.environ, "TZ": "Europe/Vienna"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert words[words.index("--date") + 1] == day
