"""What the tree promises as a whole: see the tables of the README."""

import ast
import functools
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

from mrkd.config import EvalConfig, ScoreConfig, SearchConfig, TrainConfig, presets
from mrkd.config.toml import Config

TOP = Path(__file__).parents[2]
CODE = sorted(
    path for folder in ("mrkd", "jobs", "tune_spaces") for path in (TOP / folder).rglob("*.py")
)
HEAVY = ("torch", "ray", "numpy", "pyarrow", "cv2", "boto3")
SPARED = ("mrkd.reports", "mrkd.runs.score", "mrkd.runs.on_ray.score.steps")
CONFIGS: dict[str, type[Config]] = {
    "train.toml": TrainConfig,
    "search.toml": SearchConfig,
    "score.toml": ScoreConfig,
    "evaluate.toml": EvalConfig,
    "cifar10.toml": EvalConfig,
}


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TOP)
    assert done.returncode == 0, done.stderr
    return done.stdout


def module_name(path):
    return ".".join(path.relative_to(TOP).with_suffix("").parts).removesuffix(".__init__")


@pytest.fixture(scope="module")
def loaded():
    """What heavy modules each of ours loads that should load few, imported one after the other.

    One process for all: a module that loads too much is blamed with those that follow it.
    """
    code = f"""
import importlib, sys
for modules in {("mrkd mrkd.cli", *SPARED)}:
    for name in modules.split():
        importlib.import_module(name)
    print(modules, *[name for name in {HEAVY} if name in sys.modules], sep=",")
"""
    lines = [line.split(",") for line in run_python(code).splitlines()]
    return {modules: heavy for modules, *heavy in lines}


def test_importing_mrkd_or_its_command_line_loads_nothing_heavy(loaded):
    assert loaded["mrkd mrkd.cli"] == []


@pytest.mark.parametrize("module", SPARED)
def test_whoever_only_reads_writes_or_tells_is_spared_the_import_of_torch(module, loaded):
    assert "torch" not in loaded[module]


def test_everything_but_runs_on_ray_imports_where_ray_is_absent():
    modules = [
        module_name(path)
        for path in CODE
        if module_name(path).startswith("mrkd")
        and not module_name(path).startswith("mrkd.runs.on_ray")
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
    """A person's own code is excepted: a search space is imported, and may raise anything."""
    found = {
        f"{path.relative_to(TOP)}:{function.name}"
        for path in CODE
        for function in ast.walk(parsed(path))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ExceptHandler) and _catches_all(node.type)
    }
    assert found == {"mrkd/training/search/spaces.py:_file"}


def _catches_all(caught: ast.expr | None) -> bool:
    """Whether a handler names no kind of error, or the kind of all, also among others."""
    names = {ast.unparse(node) for node in ast.walk(caught)} if caught else {"Exception"}
    return bool(names & {"Exception", "BaseException"})


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


# -- Prose (a docstring, comment or message is read by somebody who has never seen our words) --

_TITLE = re.compile(
    r"(what|how|whether|who|whose|whoever|from|where|when|why|which|of|to|by)\b", re.IGNORECASE
)
_ARGUMENT = re.compile(r"(of|likewise|the same|as)\b", re.IGNORECASE)
_IS_NO = re.compile(r"\b(is|are) no\b(?! (longer|more))")
# A log key such as `stands=` stays: readers of logs know it.
_WORDS = re.compile(r"\b(places?|pictures?|people|stands?|stood|told|said)\b(?!=)", re.IGNORECASE)
_RIDDLE = re.compile(r"\b(likewise|whoever|hitherto|by and by|of it\b(?=[.;:]))", re.IGNORECASE)
_ENTRY = re.compile(r" {4}\w+: (.*)")


def strings(path):
    """Every string constant of a module with a space in it, and every comment: line and text."""
    text = path.read_text()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def docstrings(path):
    """Every docstring of a module: line and text."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text


def found(lines, rule):
    """Where a rule is broken: file, line and the words around."""
    return [
        f"{path.relative_to(TOP)}:{line}: {text[max(0, m.start() - 30) : m.end() + 30]!r}"
        for path, line, text in lines
        for m in rule.finditer(text)
    ]


@functools.cache
def all_strings():
    return [(path, *one) for path in CODE for one in strings(path)]


def arguments(path):
    """The texts of the entries below `Args:` and `Attributes:`."""
    for line, text in docstrings(path):
        section = ""
        for row in text.splitlines():
            if re.fullmatch(r"[A-Z]\w+:", row):
                section = row
            elif section in ("Args:", "Attributes:") and (entry := _ENTRY.match(row)):
                yield line, entry[1]


def test_a_modules_first_sentence_begins_with_what_it_is():
    texts = [(path, 1, ast.get_docstring(parsed(path)) or "") for path in CODE]
    assert [
        f"{p.relative_to(TOP)}: {text[:60]}" for p, _, text in texts if _TITLE.match(text)
    ] == []


def test_an_arguments_text_is_a_noun_phrase_that_is_whole():
    texts = [(path, *one) for path in CODE for one in arguments(path)]
    assert len(texts) > 1000
    assert [
        f"{p.relative_to(TOP)}:{n}: {text}" for p, n, text in texts if _ARGUMENT.match(text)
    ] == []


def test_a_message_says_is_not_a_and_never_is_no():
    assert found(all_strings(), _IS_NO) == []


READMES = sorted(
    path for path in TOP.glob("**/README.md") if not {".venv", "node_modules"} & set(path.parts)
)
PAGES = sorted((TOP / "mrkd" / "reports" / "templates").glob("*.j2"))


def test_the_words_of_our_own_dialect_are_not_used():
    code = re.compile(r"`[^`]*`|\{\{.*?\}\}|\{%.*?%\}")
    lines = [
        (path, number, code.sub("", row))
        for path in (*READMES, *PAGES)
        for number, row in enumerate(path.read_text().splitlines(), 1)
    ]
    assert found([*all_strings(), *lines], _WORDS) == []


def test_the_glossary_has_at_most_twenty_words():
    text = (TOP / "README.md").read_text()
    glossary = text.partition("## Words")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\w[\w ]*) \|", glossary, re.MULTILINE)
    assert 10 <= len(rows) - 1 <= 20  # the first is the table's head


def test_no_riddle_for_rhythm():
    assert found(all_strings(), _RIDDLE) == []


def test_one_class_name_is_one_class():
    names = Counter(
        node.name
        for path in CODE
        if path.is_relative_to(TOP / "mrkd")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_mrkd_has_ten_packages_and_at_most_four_modules():
    folders = [p for p in (TOP / "mrkd").iterdir() if p.is_dir() and p.name != "__pycache__"]
    modules = list((TOP / "mrkd").glob("*.py"))
    assert len(folders) == 10
    assert len(modules) <= 4


def test_ray_is_imported_by_runs_on_ray_alone_and_its_private_parts_by_one_module():
    imports, private = set(), set()
    for path in (TOP / "mrkd").rglob("*.py"):
        name, text = str(path.relative_to(TOP)), path.read_text()
        for node in ast.walk(parsed(path)):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(one.partition(".")[0] == "ray" for one in names):
                imports.add(name)
        if re.search(r"ray(\.\w+)*\.(_private|_internal|v2)\b|RAY_idle|_base_exc", text):
            private.add(name)
    assert {name for name in imports if not name.startswith("mrkd/runs/on_ray/")} == set()
    assert imports
    assert private == {"mrkd/runs/on_ray/private.py"}
