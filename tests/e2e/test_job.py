"""Fleet, search and night as a plant runs them: `ray job submit` to a cluster of two nodes.

The nodes ask for a token. They are in two networks where this process may make a second one, else
two on one machine.
"""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest

from mrkd.config import ArchiveConfig, RowsConfig, ScoreConfig
from mrkd.nights.manifest import open_night
from tests.support.clusters import RAY, further_node, head, kill_node, network, submit
from tests.support.models import small_config
from tests.support.parts import make_parts
from tests.support.processes import descendants
from tests.support.searches import small_search

TOP = Path(__file__).parents[2]
_WAIT_S = 150
_FOLDERS = {"train": "fleets", "score": "nights", "tune": "searches"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head, and the pid of the second node's command."""
    folder = tmp_path_factory.mktemp("cluster")
    with ExitStack() as stack:
        where = stack.enter_context(network())
        # By default a lost node is missed after 15 s.
        settings = {"RAY_health_check_period_ms": "1000"}
        options = {"node-ip-address": where.head}
        first = stack.enter_context(head(folder, settings, **options))
        pid = stack.enter_context(further_node(first, where, folder, num_cpus=2))
        wait_until(lambda: num_nodes(first) == 2, _WAIT_S)
        yield first, pid


@pytest.fixture(scope="module")
def plant(cluster, tmp_path_factory):
    """A folder with parts and, trained by a submitted fleet, a workspace with their model."""
    folder = tmp_path_factory.mktemp("plant")
    root = make_parts(folder / "parts", 1)
    fleet = small_config(str(root), str(folder / "workspace"), run="fleet-1")
    code, verdict = run_job("train", fleet, folder, cluster[0])
    assert (code, verdict["counts"]["trained"]) == (0, 1)
    return folder


def ask(first, path, method="GET"):
    """What the dashboard answers, without the seconds that Ray's command line takes to begin."""
    token = Path(first.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    headers = {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{first.url}{path}", headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def num_nodes(first):
    """The nodes that live."""
    nodes = ask(first, "/nodes?view=summary")["data"]["summary"]
    return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)


def wait_until(holds, seconds):
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.2)


def job_command(verb, config, folder, name=""):
    (folder / f"{verb}.toml").write_text(config.to_toml())
    entrypoint = [sys.executable, "-m", f"jobs.{verb}", folder / f"{verb}.toml"]
    options = ["--working-dir", TOP, "--runtime-env", TOP / "cluster" / "runtime_env.yaml"]
    options += ["--submission-id", name] if name else []
    return [RAY, "job", "submit", *options, "--", *entrypoint]


def submitted(command, first):
    """A submitted job that is under way."""
    return subprocess.Popen(
        command,
        env=first.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def verdict_of(verb, config, output):
    """The verdict in the workspace, which is what the job said last."""
    place = Path(config.workspace) / _FOLDERS[verb] / config.run / "summary.json"
    assert place.exists(), output
    verdict = json.loads(place.read_text())
    assert json.dumps(verdict, ensure_ascii=False) in output
    return verdict


def run_job(verb, config, folder, first):
    """The exit code of a submitted job, and its verdict."""
    job = submit(job_command(verb, config, folder), first.environment)
    return job.returncode, verdict_of(verb, config, job.stdout + job.stderr)


def test_a_submitted_search_ends_with_its_verdict_in_the_workspace(plant, cluster):
    search = small_search(plant, plant / "parts", **{"search.trials": 2, "search.refit_seeds": 1})
    code, verdict = run_job("tune", search, plant, cluster[0])
    assert (code, verdict["counts"]["trials"]) == (0, 2)


def test_a_submitted_night_ends_right_though_it_is_stopped_and_a_node_dies(plant, cluster):
    (first, node), workspace = cluster, plant / "workspace"
    archive = plant / "archive" / "plate"
    archive.mkdir(parents=True)
    good = sorted((plant / "parts" / "plate" / "test" / "good").iterdir())
    for number in range(100):
        shutil.copy(good[number % len(good)], archive / f"{number:03}.png")
    for number in range(5):
        (archive / f"empty-{number}.png").touch()
    night = ScoreConfig(
        str(workspace), "night-1", ArchiveConfig(str(archive.parent)), RowsConfig(shard_rows=4)
    ).with_values({"deadline.within": "10m"})  # with which it looks at its nodes every 2.5 s
    shards = workspace / "nights" / "night-1" / "scores" / "category=plate"

    def wait_for_shards(number):
        wait_until(lambda: len(list(shards.glob("*.parquet"))) >= number, _WAIT_S)

    with submitted(job_command("score", night, plant, "first"), first) as job:
        wait_for_shards(1)
        assert ask(first, "/api/jobs/first/stop", "POST") == {"stopped": True}
        job.communicate(timeout=_WAIT_S)
    place = workspace / "nights" / "night-1" / "summary.json"
    verdict = json.loads(place.read_text())
    assert (verdict["exit_code"], verdict["state"]) == (1, "failed")
    assert "the night was stopped: start it again to go on" in verdict["reasons"][0]

    stood = len(list(shards.glob("*.parquet")))
    with submitted(job_command("score", night, plant, "second"), first) as job:
        wait_for_shards(stood + 1)
        assert any("ray::" in title for _, title in descendants(node)), "the node had no work"
        kill_node(node)
        output, _ = job.communicate(timeout=_WAIT_S)
    verdict = verdict_of("score", night, output)
    # Five images of 105 are errors: exit code 3, which `ray job submit` turns into 1.
    assert (job.returncode, verdict["exit_code"], verdict["state"]) == (1, 3, "partial"), output
    rows = open_night(str(workspace / "nights" / "night-1")).to_table()
    uris = rows["image_uri"].to_pylist()
    assert sorted(uris) == [f"file://{path}" for path in sorted(archive.iterdir())]
    assert rows["error_kind"].to_pylist().count("empty") == 5
