"""Every command in a block of a README is one that its programme takes."""

import re
import shlex
from pathlib import Path

import pytest

from mrkd.cli.main import _parser

TOP = Path(__file__).parents[2]
READMES = sorted(
    path for path in TOP.glob("**/README.md") if not any(p.startswith(".") for p in path.parts)
)
_BLOCK = re.compile(r"^```(?:\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_OURS = re.compile(r"(?:^|-- )(?:mrkd|python -m jobs\.(\w+)) (.*)$")


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
