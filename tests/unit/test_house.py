"""What the tree promises as a whole: see the tables of the README."""

import ast
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from mrkd.config import EvalConfig, ScoreConfig, SearchConfig, TrainConfig, presets
from mrkd.config.toml import Config

TOP = Path(__file__).parents[2]
CODE = sorted(
    path for folder in ("mrkd", "jobs", "tune_spaces") for path in (TOP / folder).rglob("*.py")
)
CONFIGS: dict[str, type[Config]] = {
    "train.toml": TrainConfig,
    "search.toml": SearchConfig,
    "score.toml": ScoreConfig,
    "evaluate.toml": EvalConfig,
    "cifar10.toml": EvalConfig,
}


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TOP)
    assert done.returncode == 0, done.stderr
    return done.stdout


def module_name(path):
    return ".".join(path.relative_to(TOP).with_suffix("").parts).removesuffix(".__init__")


def test_importing_mrkd_or_its_command_line_loads_nothing_heavy():
    heavy = ("torch", "ray", "numpy", "pyarrow", "cv2", "boto3")
    code = f"import sys, mrkd, mrkd.cli; print([name for name in {heavy} if name in sys.modules])"
    assert run_python(code).strip() == "[]"


@pytest.mark.parametrize(
    "module", ["mrkd.on_ray.score.steps", "mrkd.on_ray.score.run", "mrkd.reports"]
)
def test_whoever_only_reads_writes_or_tells_is_spared_the_import_of_torch(module):
    code = f"import sys, {module}; print('torch' in sys.modules)"
    assert run_python(code).strip() == "False"


def test_everything_but_on_ray_and_the_demo_imports_where_ray_is_absent():
    modules = [
        module_name(path)
        for path in CODE
        if module_name(path).startswith("mrkd")
        and not module_name(path).startswith(("mrkd.on_ray", "mrkd.cli.demo"))
    ]
    code = (
        "import importlib, sys\n"
        "sys.modules['ray'] = None  # an import of it fails as if it were not installed\n"
        f"for name in {modules}: importlib.import_module(name)\n"
    )
    run_python(code)


def test_every_folder_says_what_it_is():
    for folder in (".", "mrkd", "jobs", "cluster", "tune_spaces", "tests"):
        assert (TOP / folder / "README.md").is_file(), folder


def test_the_readme_keeps_within_150_lines():
    assert len((TOP / "README.md").read_text().splitlines()) <= 150


def test_no_module_catches_what_it_cannot_name():
    found = [
        f"{path.relative_to(TOP)}:{node.lineno}"
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
    ]
    assert found == []


def test_no_module_is_longer_than_400_lines():
    lengths = {str(path.relative_to(TOP)): len(path.read_text().splitlines()) for path in CODE}
    assert {path: length for path, length in lengths.items() if length > 400} == {}


def test_jobs_stay_thin():
    for path in (TOP / "jobs").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 20, path.name


@pytest.mark.parametrize(
    "path", sorted((TOP / "jobs" / "configs").glob("*.toml")), ids=lambda p: p.name
)
def test_every_config_of_the_jobs_is_whole(path):
    config = CONFIGS[path.name].from_toml(path.read_text())
    assert config.to_dict()["workspace"] == "workspace"


def test_the_presets_are_part_of_the_installed_package():
    assert {"default", "paper"} <= set(presets())


def test_all_pins_are_exact_and_sorted():
    text = (TOP / "cluster" / "constraints.txt").read_text()
    for block in text.split("\n\n"):
        pins = [line for line in block.splitlines() if line and not line.startswith("#")]
        assert all(re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", pin) for pin in pins)
        assert pins == sorted(pins, key=lambda pin: pin.partition("==")[0])


def test_every_dependency_of_the_project_is_pinned():
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    wanted = chain(project["dependencies"], *project["optional-dependencies"].values())
    text = (TOP / "cluster" / "constraints.txt").read_text()
    pinned = {line.partition("==")[0] for line in text.splitlines()}
    names = {re.split(r"[^a-z0-9-]", requirement)[0] for requirement in wanted}
    assert names - {"mrkd"} <= pinned
