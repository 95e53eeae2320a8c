"""Starts a RayJob from its template, waits for its end, and exits with the verdict of its run.

`python start.py NAME` creates the RayJob of the template NAME under the name of the Job that it
runs in, so that a pod that replaces this one finds it and waits on. The exit code is the run's own,
from the `summary.json` in the workspace, since a RayJob knows success and failure only.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import ssl
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from mrkd import storage
from mrkd.errors import MrkdError

_FOLDERS = {"score": "nights", "train": "fleets", "tune": "searches"}
"""Folders of a workspace, by the command that writes there."""
_MOST_CHARACTERS = 47
"""The longest name of a RayJob that KubeRay accepts."""
_TIMEOUT_S = 30
_MOST_FAILURES = 40
"""Failed polls in a row after which this pod gives up: ten minutes by default."""
FAILED, REFUSED, LOST = 1, 2, 4
"""Exit codes. LOST: the API does not answer; base/start.yaml has another pod try again."""

log = logging.getLogger("start")


class StartError(Exception):
    """A job that is refused: nothing was created."""


@dataclass(frozen=True)
class Cluster:
    """The Kubernetes API, as a pod reaches it.

    Args:
        url: address of the API.
        account: folder with the pod's token, namespace and the API's certificate.
    """

    url: str
    account: Path

    def create(self, job: dict[str, Any]) -> None:
        """Creates a RayJob, unless there is one of this name.

        Raises:
            StartError: the API refuses it.
            OSError: the API does not answer.
        """
        try:
            self._request("POST", "", json.dumps(job).encode())
        except urllib.error.HTTPError as error:
            if error.code == 409:
                log.info("job=%s exists: waiting for it", job["metadata"]["name"])
            elif error.code < 500 and error.code != 429:
                reason = error.read().decode(errors="replace")
                raise StartError(f"{error}: {reason}") from error
            else:
                raise

    def get(self, name: str) -> dict[str, Any] | None:
        """A RayJob; None if there is none."""
        try:
            return self._request("GET", f"/{name}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def _request(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        # Kubernetes renews the token's file while this process runs.
        token, namespace = ((self.account / name).read_text() for name in ("token", "namespace"))
        request = urllib.request.Request(
            f"{self.url}/apis/ray.io/v1/namespaces/{namespace}/rayjobs{path}", body, method=method
        )
        request.add_header("Authorization", f"Bearer {token}")
        request.add_header("Content-Type", "application/json")
        context = ssl.create_default_context(cafile=self.account / "ca.crt")
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=context) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a job, and returns the exit code of its run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("template", help="name of the RayJob in the templates")
    parser.add_argument("--templates", type=Path, default=Path("/etc/mrkd/jobs/jobs.yaml"))
    parser.add_argument("--api", default="https://kubernetes.default.svc")
    account = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    parser.add_argument("--account", type=Path, default=account)
    parser.add_argument("--poll-s", type=float, default=15.0)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    cluster = Cluster(options.api, options.account)
    # The day before, by the clock of the plant (TZ).
    day = os.environ.get("DATE") or f"{datetime.now().astimezone().date() - timedelta(days=1)}"
    try:
        job = filled(options.templates, options.template, day)
        list(summaries(job["spec"]["entrypoint"]))  # a wrong config costs no cluster
        cluster.create(job)
        end = ended(cluster, job["metadata"]["name"], options.poll_s)
        return FAILED if end is None else verdict(end)
    except StartError as error:
        log.error("%s", error)
        return REFUSED
    except OSError as error:
        log.error("the API does not answer: %s", error)
        return LOST


def filled(templates: Path, name: str, day: str) -> dict[str, Any]:
    """A RayJob from its template: for a day, and owned by the Job that starts it.

    Raises:
        StartError: there is no such template, or the Job's name is too long for a RayJob.
    """
    found = [one for one in yaml.safe_load_all(templates.read_text()) if one]
    names = [one["metadata"]["name"] for one in found]
    if name not in names:
        raise StartError(f"no template {name!r} in {templates}: it has {', '.join(names)}")
    job: dict[str, Any] = found[names.index(name)]
    owner, uid = os.environ["JOB_NAME"], os.environ["JOB_UID"]
    if len(owner) > _MOST_CHARACTERS:
        raise StartError(f"{owner!r} has more than {_MOST_CHARACTERS} characters: name it shorter")
    job["metadata"]["name"] = owner
    # Deleting the Job stops the run, and its history is the RayJob's.
    job["metadata"]["ownerReferences"] = [
        {"apiVersion": "batch/v1", "kind": "Job", "name": owner, "uid": uid}
    ]
    job["spec"]["entrypoint"] = job["spec"]["entrypoint"].replace("{date}", day)
    return job


def summaries(entrypoint: str) -> Iterator[str]:
    """URIs of the `summary.json` of every run that a command writes, its own first.

    Raises:
        StartError: the command or its config is refused.
    """
    words = shlex.split(entrypoint.partition("||")[0])
    window = 0
    if "--late-window" in words:
        at = words.index("--late-window")
        window = int(words[at + 1].removesuffix("d"))
        del words[at : at + 2]
    for before in range(window + 1):
        if before:
            at = words.index("--date") + 1
            words[at] = f"{date.fromisoformat(words[at]) - timedelta(days=1)}"
        shown = subprocess.run(
            [*words, "--show-config"], capture_output=True, text=True, check=False
        )
        if shown.returncode:
            raise StartError(shown.stdout + shown.stderr)
        config = tomllib.loads(shown.stdout)
        yield storage.join(config["workspace"], _FOLDERS[words[1]], config["run"], "summary.json")


def ended(cluster: Cluster, name: str, poll_s: float) -> dict[str, Any] | None:
    """A RayJob once it has ended; None if somebody deleted it.

    Raises:
        OSError: the API has not answered for long.
    """
    state, failures = "", 0
    while True:
        try:
            job = cluster.get(name)
        except OSError as error:  # the API restarts, or the network does
            failures += 1
            log.warning("job=%s error=%s", name, error)
            if failures == _MOST_FAILURES:
                raise
            time.sleep(poll_s)
            continue
        failures = 0
        if job is None:
            log.error("job=%s was deleted", name)
            return None
        status = job.get("status", {})
        before, state = state, status.get("jobDeploymentStatus", "")
        if state != before:
            log.info("job=%s state=%s %s", name, state, status.get("message", ""))
        if state in ("Complete", "Failed"):
            return job
        time.sleep(poll_s)


def verdict(job: dict[str, Any]) -> int:
    """The exit code of a RayJob's runs; prints their summaries.

    A night that has nothing new leaves the summary of an earlier start, which is its verdict too.
    The command is the RayJob's: a pod that waits after midnight would name another day.
    """
    created = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
    is_complete = job["status"]["jobDeploymentStatus"] == "Complete"
    runs = summaries(job["spec"]["entrypoint"])
    codes = []
    for at, uri in enumerate(runs):
        try:
            summary = json.loads(storage.read(uri))
        except MrkdError as error:
            if at == 0:
                log.error("%s", error)
                codes.append(FAILED)
            continue  # a day without images has no night
        if at and datetime.fromisoformat(summary["started_at"]) < created:
            continue  # nothing came late
        codes.append(int(summary["exit_code"]))
        sys.stdout.write(json.dumps(summary) + "\n")
    # A failure has priority over a partial end.
    code = min((code for code in codes if code), default=0)
    return code if is_complete else code or FAILED


if __name__ == "__main__":
    sys.exit(main())
