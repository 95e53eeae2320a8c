"""READMEs: commands are accepted, paths and modules exist, and the words are plain."""

import ast
import dataclasses
import re
import shlex
import typing
from functools import cache
from pathlib import Path

import pytest

from mrkd.cli.main import _parser
from mrkd.config import EvalConfig, ScoreConfig, SearchConfig, TrainConfig

TOP = Path(__file__).parents[2]
READMES = sorted(
    path
    for path in TOP.glob("**/README.md")
    if not any(part.startswith(".") for part in path.relative_to(TOP).parts)
)
NAMES = [path.relative_to(TOP).as_posix() for path in READMES]
_PENDING = ("mrkd/runs/README.md", "mrkd/reports/README.md")  # being rewritten elsewhere
PLAIN = [name for name in NAMES if name not in _PENDING]
PACKAGES = sorted(path.parent.name for path in (TOP / "mrkd").glob("*/__init__.py"))
FOLDERS = ("mrkd", "jobs", "cluster", "tune_spaces", "tests")
_TESTS = ("unit", "property", "runs", "s3", "e2e", "real_data", "bench", "support", "assets")
_BLOCK = re.compile(r"^```(?:\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_OURS = re.compile(r"(?:^|-- )(?:mrkd|python -m jobs\.(\w+)) (.*)$")
_TOPS = ("mrkd", "tests")
_SHORT = re.compile(rf"(?:{'|'.join([*PACKAGES, *_TESTS])})/[\w./]+")
_SPAN = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w(?:/(?![\w<]))?(?![\w*<])")
_DOTTED = re.compile(r"(?<![\w/.-])mrkd((?:\.\w+)+)")


def commands():
    """File, and words of each command line of ours in it."""
    for path in READMES:
        for block in _BLOCK.findall(path.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.split("#")[0].split("&&"):
                    if found := _OURS.search(part.strip()):
                        words = shlex.split(found[2])
                        yield str(path.relative_to(TOP)), [found[1], *words] if found[1] else words


COMMANDS = list(commands())


@pytest.mark.parametrize(("file", "words"), COMMANDS, ids=[words[0] for _, words in COMMANDS])
def test_a_command_of_a_readme_is_taken(file, words):
    options, unknown = _parser().parse_known_args(words)
    assert (unknown, options.command.split()[0]) == ([], words[0])


def test_there_are_commands_in_the_readmes_that_have_some():
    assert {file for file, _ in COMMANDS} >= {"README.md", "jobs/README.md", "cluster/README.md"}


@cache
def bound(path):
    """Names that a Python file binds anywhere: functions, classes, variables, imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.ImportFrom):
            names |= {one.asname or one.name for one in node.names}
    return names


def is_code(dotted):
    """Whether a dotted name below `mrkd` is a module, or a name that its module binds."""
    place, parts = TOP / "mrkd", dotted.split(".")
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    if parts and (place / f"{parts[0]}.py").is_file():
        module = place / f"{parts.pop(0)}.py"
    else:
        module = place / "__init__.py"
    return module.is_file() and set(parts) <= bound(module)


def config_keys(config, prefix=""):
    """The dotted keys of a config."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        key = f"{prefix}{field.name}"
        yield key
        if dataclasses.is_dataclass(hints[field.name]):
            yield from config_keys(hints[field.name], f"{key}.")


KEYS = {
    key
    for config in (TrainConfig, SearchConfig, ScoreConfig, EvalConfig)
    for key in config_keys(config)
}


def missing(path):
    """Paths, dotted names and links of a README that lead nowhere."""
    text = path.read_text()
    for found in _PATH.findall(text):
        if not (TOP / found).exists():
            yield found
    for dotted in _DOTTED.findall(text):
        if not is_code(dotted[1:]):
            yield f"mrkd{dotted}"
    for span in _SPAN.findall(_BLOCK.sub("", text)):
        first, _, rest = span.partition(".")
        if first in PACKAGES and re.fullmatch(r"[\w.]+", rest) and span not in KEYS:
            if not is_code(span):
                yield span
        elif _SHORT.fullmatch(span) and not any((TOP / top / span).exists() for top in _TOPS):
            yield span
    for target in re.findall(r"\]\(([^)#:]+)", text):
        if not (path.parent / target).exists():
            yield target


@pytest.mark.parametrize("readme", PLAIN)
def test_every_path_name_and_link_of_a_readme_exists(readme):
    assert list(missing(TOP / readme)) == []


def test_a_path_name_or_link_that_leads_nowhere_is_found(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(
        "mrkd/nights/night.py and mrkd/nights/knight.py, `mrkd.open_night`, `mrkd.open_knight`, "
        "`model.layers.SimAM`, `model.layers.SimAn`, `model.fmm`, `model.fnm`, `nights/plan.py`, "
        "`nights/plans.py`, `unit/test_readmes.py`, `unit/test_read.py`, s3://plant/mrkd/x, "
        "[here](README.md#x), [there](THERE.md#x)\n"
    )
    assert list(missing(readme)) == [
        "mrkd/nights/knight.py",
        "mrkd.open_knight",
        "model.layers.SimAn",
        "model.fnm",
        "nights/plans.py",
        "unit/test_read.py",
        "THERE.md",
    ]


def section(readme, title):
    """The text of a section, without the sections after it."""
    text = (TOP / readme).read_text()
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def rows(text):
    """The rows of a section's table, without its head: lists of cells."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_the_tree_of_the_readme_names_every_package_and_module():
    tree = section("README.md", "The tree").partition("**An image")[0]
    modules = {path.name for path in (TOP / "mrkd").glob("*.py")} - {"__init__.py"}
    named = set(re.findall(r"[\w]+(?:\.py|/)(?!\*)", tree))
    assert modules | {f"{name}/" for name in (*PACKAGES, *FOLDERS)} <= named


def test_the_glossary_has_at_most_twenty_words_of_one_sentence_each():
    words = dict(rows(section("README.md", "Words")))
    wanted = "night fleet champion gate calibration shard revision category"
    assert set(words) >= {*wanted.split(), "teacher", "bottleneck", "student"}
    assert len(words) <= 20
    for word, meaning in words.items():
        assert re.fullmatch(r"[A-Z][^.]*\.", meaning), word


def test_each_change_of_the_list_opens_with_a_file_that_exists():
    changes = rows(section("mrkd/README.md", "Where to change what"))
    assert len(changes) >= 12
    for change, where in changes:
        file = _SPAN.match(where)[1]
        assert any((TOP / folder / file).is_file() for folder in ("mrkd", ".")), change


def test_each_name_beside_a_file_of_the_list_is_in_that_file():
    for change, where in rows(section("mrkd/README.md", "Where to change what")):
        file = None
        for span in _SPAN.findall(where):
            if "/" in span:
                file = next(p for p in (TOP / "mrkd" / span, TOP / span) if p.is_file())
            else:
                assert span in bound(file), change


_UNCLEAR = re.compile(r"\b(places?|pictures?|people|stands?|stood|told|said)\b", re.IGNORECASE)


@pytest.mark.parametrize("readme", PLAIN)
def test_a_readme_has_none_of_the_words_that_have_many_meanings(readme):
    # The tables of that section are being replaced elsewhere.
    text = (TOP / readme).read_text().partition("## What each part brings")[0]
    assert _UNCLEAR.findall(text) == []


def test_the_folders_of_the_unit_tests_mirror_the_library():
    unit = TOP / "tests" / "unit"
    for folder in (path for path in unit.rglob("*") if path.is_dir() and path.name[0] not in "._"):
        one = TOP / "mrkd" / folder.relative_to(unit)
        assert one.is_dir() or one.with_suffix(".py").is_file(), folder
