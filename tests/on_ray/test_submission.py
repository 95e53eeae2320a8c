"""What `ray job submit --working-dir . --runtime-env cluster/runtime_env.yaml` uploads."""

import subprocess
import zipfile
from pathlib import Path

import yaml
from ray._private.runtime_env.packaging import create_package
from ray._private.runtime_env.working_dir import upload_working_dir_if_needed
from ray.runtime_env import RuntimeEnv

TOP = Path(__file__).parents[2]
SETTINGS = yaml.safe_load((TOP / "cluster" / "runtime_env.yaml").read_text())
_MOST_BYTES = 10 * 2**20
"""Of a package, from which on Ray warns of a file."""


def uploaded(folder, target):
    """Names in the package that Ray makes of a working directory, which it sends as it is."""

    def make(path, excludes, is_file=False):
        create_package(str(path), target, include_gitignore=True, excludes=list(excludes))

    asked = {**SETTINGS, "working_dir": str(folder)}
    upload_working_dir_if_needed(asked, include_gitignore=True, upload_fn=make)
    with zipfile.ZipFile(target) as package:
        return {name for name in package.namelist() if not name.endswith("/")}


def test_ray_takes_the_settings_and_none_of_them_is_a_secret():
    assert RuntimeEnv(**SETTINGS).to_dict() == SETTINGS
    told = " ".join(SETTINGS["env_vars"]).lower()
    assert not any(word in told for word in ("aws", "token", "secret", "key", "password"))


def test_a_clone_is_small_and_takes_what_the_jobs_need(tmp_path):
    clone = tmp_path / "mrkd"
    subprocess.run(["git", "clone", "--quiet", TOP, clone], check=True, timeout=60)
    names = uploaded(clone, tmp_path / "package.zip")
    assert (tmp_path / "package.zip").stat().st_size < _MOST_BYTES
    assert {
        "jobs/train.py",
        "jobs/configs/score.toml",
        "mrkd/cli/main.py",
        "tune_spaces/quick.py",
    } <= names
    assert not any(name.startswith((".git/", "tests/")) for name in names)


def test_what_a_working_tree_holds_beside_the_code_stays_at_home(tmp_path):
    folder = tmp_path / "tree"
    secrets = (".env", ".env.prod", "deploy/.env", ".aws/credentials", "tls.pem", "deploy/site.key")
    made = ("mrkd-demo/report.html", "workspace/models/plate/v/model.safetensors")
    for name in (*secrets, *made, "mrkd/cli/main.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    assert uploaded(folder, tmp_path / "package.zip") == {"mrkd/cli/main.py"}
