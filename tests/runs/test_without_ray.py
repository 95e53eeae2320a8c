"""Every verb where Ray is not installed: a fleet, a night, an evaluation, a search."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from mrkd.nights.manifest import open_night
from tests.support.models import small_config
from tests.support.parts import make_parts
from tests.support.under_fire import TOP

WITHOUT_RAY = """
import sys


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())
from mrkd.cli.main import main

code = main(sys.argv[1:])
assert "ray" not in sys.modules
sys.exit(code)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with parts, an archive of their test images, and the four configs."""
    folder = tmp_path_factory.mktemp("place")
    root = make_parts(folder / "parts")
    for category in ("plate", "ring"):
        (folder / "archive" / category).mkdir(parents=True)
        for image in (root / category / "test").rglob("*.png"):
            name = f"{image.parent.name}-{image.name}"
            shutil.copy(image, folder / "archive" / category / name)
    workspace = str(folder / "workspace")
    (folder / "train.toml").write_text(small_config(str(root), workspace, run="r").to_toml())
    base = f'workspace = "{workspace}"\nrun = "r"\n'
    (folder / "score.toml").write_text(f'{base}[archive]\nuri = "{folder}/archive"\n')
    (folder / "evaluate.toml").write_text(f'{base}[data]\nroot = "{root}"\n')
    return folder


def run(place, verb, file, *flags):
    words = [sys.executable, "-c", WITHOUT_RAY, verb, str(place / file), *flags]
    environment = {**os.environ, "PYTHONPATH": str(TOP), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=240)
    assert done.stdout, done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_every_verb_ends_well_and_its_log_names_the_executor_and_why(place):
    search = ["--search.trials", "2", "--search.refit-best", "1", "--search.refit-seeds", "1"]
    counts = {}
    for verb, file, *flags in (
        ("train", "train.toml"),
        ("score", "score.toml"),
        ("evaluate", "evaluate.toml", "--resamples", "20"),
        ("tune", "train.toml", *search),
    ):
        code, summary, log = run(place, verb, file, *flags)
        assert (code, summary["state"]) == (0, "done"), (verb, summary["reasons"], log[-3000:])
        assert "executor name=in_process reason=Ray is not installed" in log
        counts[verb] = summary["counts"]
    assert counts["train"]["trained"] == 2
    assert counts["score"]["images"] == counts["evaluate"]["images"] == 24
    assert (counts["tune"]["trials"], counts["tune"]["failed"]) == (4, 0)
    night = open_night(str(place / "workspace" / "nights" / "r")).to_table()
    assert night["image_score"].null_count == 0


def test_a_config_that_asks_for_ray_is_refused_with_what_to_do(place):
    code, summary, _ = run(place, "train", "train.toml", "--executor", "ray", "--run", "other")
    assert (code, summary["state"]) == (2, "refused")
    assert "Ray is not installed: set it to in_process" in summary["reasons"][0]
    assert not (place / "workspace" / "fleets" / "other").exists()
