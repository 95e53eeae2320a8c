"""Fleet, search and night as a plant runs them: `ray job submit` to a cluster that asks a token."""

import json
import sys
from pathlib import Path

import pytest

from mrkd.config import ArchiveConfig, ScoreConfig
from mrkd.manifests import open_night
from tests.support.clusters import RAY, head, submit
from tests.support.models import small_config
from tests.support.parts import make_parts
from tests.support.searches import small_search

TOP = Path(__file__).parents[2]


@pytest.fixture
def cluster(tmp_path):
    """The environment of a client of a head that was started with token authentication."""
    with head(tmp_path) as started:
        yield started.environment


def run_job(verb, config, tmp_path, environment):
    """What a submitted job said, and its verdict in the workspace."""
    (tmp_path / f"{verb}.toml").write_text(config.to_toml())
    entrypoint = [sys.executable, "-m", f"jobs.{verb}", tmp_path / f"{verb}.toml"]
    options = ["--working-dir", TOP, "--runtime-env", TOP / "cluster" / "runtime_env.yaml"]
    command = [RAY, "job", "submit", *options, "--", *entrypoint]
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
