"""What the README says to type, typed: the jobs on drawn parts, and the query on their night.

The jobs share the Ray of one head, as on a cluster. The two set-up commands, with the demo, are
run by `.ci/run`.
"""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

import mrkd
from tests.support.clusters import head
from tests.support.night_runs import events
from tests.support.parts import make_parts

TOP = Path(__file__).parents[2]
README = (TOP / "README.md").read_text()
JOBS = re.findall(r"^mrkd (\w+) +jobs/configs/(.*)$", README, re.MULTILINE)
MODELS = re.findall(r"^mrkd (models .*)$", README, re.MULTILINE)
SMALL = {
    "train": "--model.weights random --model.image-size 64 --train.max-steps 4"
    " --train.validation-share 0.25 --train.calibration-share 0.25",
    "score": "--pool.batch-size 4",
    "evaluate": "--resamples 20",
}


def run_job(verb, arguments, cwd, cluster):
    """Exit code and summary of `python -m jobs.<verb> <configs>/<arguments>` on a cluster."""
    argv = [sys.executable, "-m", f"jobs.{verb}", *shlex.split(f"{TOP}/jobs/configs/{arguments}")]
    address = f"127.0.0.1:{cluster.ports['port']}"
    environment = {**cluster.environment, "RAY_ADDRESS": address, "PYTHONPATH": str(TOP)}
    job = subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True)
    assert job.stdout, job.stderr
    assert "executor name=ray" in job.stderr
    return job.returncode, json.loads(job.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder after the README's jobs, with their exit codes and summaries by verb."""
    folder = tmp_path_factory.mktemp("readme")
    make_parts(folder / "parts", train=40)
    make_parts(folder / "images", train=1, test_good=4, test_defect=4)
    for path in (folder / "images").glob("*/test/*/*.png"):
        name = "-".join(path.parts[-2:])
        target = folder / "archive" / path.parts[-4] / name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    (folder / "head").mkdir()
    with head(folder / "head") as cluster:
        done = {
            verb: run_job(verb, f"{line} {SMALL[verb]}", folder, cluster) for verb, line in JOBS
        }
    return folder, done


def test_the_readme_names_one_command_for_each_job():
    assert [verb for verb, _ in JOBS] == ["train", "score", "evaluate"]


def test_both_set_up_commands_stand_alone_on_their_lines():
    for extra, last in (("demo", "mrkd demo"), ("dev", "pytest")):
        assert f"\npip install -c cluster/constraints.txt -e '.[{extra}]' && {last}\n" in README


@pytest.mark.parametrize("verb", ["train", "score", "evaluate"])
def test_a_job_of_the_readme_ends_well_and_says_so(place, verb):
    _, done = place
    exit_code, summary = done[verb]
    assert (exit_code, summary["state"], events(summary["reasons"])) == (0, "done", [])
    assert summary["command"] == verb
    for uri in summary["uris"].values():
        assert Path(uri.removeprefix("file://")).exists(), uri


def test_the_commands_on_models_of_the_readme_end_well(place):
    folder, _ = place
    for line in MODELS:
        argv = [sys.executable, "-c", "import sys, mrkd.cli; sys.exit(mrkd.cli.main())"]
        argv += shlex.split(line)
        environment = os.environ | {"PYTHONPATH": str(TOP)}
        done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True)
        summary = json.loads(done.stdout.splitlines()[-1])
        assert (done.returncode, summary["state"]) == (0, "done"), line
        assert line.startswith(summary["command"])
        assert "plate" in done.stdout or "set-threshold" in line


def test_an_evaluation_leaves_its_page_and_the_summary_names_it(place):
    folder, done = place
    _, summary = done["evaluate"]
    evaluation = folder / "workspace" / "evaluations" / summary["run"]
    assert summary["uris"]["report"] == f"file://{evaluation / 'report.html'}"
    assert json.loads((evaluation / "summary.json").read_text()) == summary


def test_the_query_of_the_readme_gives_every_image_once(place, monkeypatch):
    folder, _ = place
    monkeypatch.chdir(folder)
    query = re.search(r"```sql\n(.*?)```", README, re.DOTALL)[1]
    uris = [row[0] for row in duckdb.sql(query).select("image_uri").fetchall()]
    images = list((folder / "archive").rglob("*.png"))
    assert len(uris) == len(set(uris)) == len(images)
    night = mrkd.open_night(str(folder / "workspace" / "nights" / "night-1"))
    assert night.count_rows() == len(images)


def test_each_stage_of_an_images_way_is_a_function_or_class_that_is_there():
    table = README.partition("**An image, step by step**")[2].partition("**A config")[0]
    names = re.findall(r"^\| \w+ \| `([\w.]+)` \|", table, re.MULTILINE)
    assert len(names) == 10
    for module, _, name in (name.rpartition(".") for name in names):
        assert callable(getattr(importlib.import_module(f"mrkd.{module}"), name))
