"""What the command line shows of itself: help, the reference, the schemas."""

import json
import re
from pathlib import Path

import pytest

from mrkd import cli
from mrkd.cli.main import COMMANDS, GROUPS
from mrkd.cli.run_commands import VERBS
from mrkd.config.reference import keys, tables

TOP = Path(__file__).parents[3]


@pytest.fixture
def printed(capsys):
    """What a command line that needs no summary prints on stdout."""

    def of(*argv):
        assert cli.main(list(argv)) == 0
        return capsys.readouterr().out

    return of


@pytest.fixture
def help_of(capsys, monkeypatch):
    """The help of a command, each run of blanks one blank."""

    def of(*words):
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stop:
            cli.main([*words, "--help"])
        assert stop.value.code == 0
        return " ".join(capsys.readouterr().out.split())

    return of


def test_mrkd_alone_prints_its_help(printed):
    text = printed()
    assert text.startswith("usage: mrkd")
    assert [name for name in (*VERBS, *GROUPS) if name not in text] == []


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_alone_prints_its_help(printed, group):
    text = printed(group)
    names = [name.split()[1] for name in COMMANDS if name.startswith(f"{group} ")]
    assert names
    assert [name for name in names if name not in text] == []


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_has_each_key_once_with_all_that_is_known_of_it(help_of, verb):
    text, config = help_of(verb), VERBS[verb].config
    for key in keys(config):
        flag = f"--{key.name.replace('_', '-')}"
        assert len(re.findall(rf"{re.escape(flag)} (?=[^ ]+ {re.escape(key.help)})", text)) == 1
        assert f"--{key.name} " not in text or "_" not in key.name
        assert " ".join(key.described.split()) in text
        assert "|".join(key.choices) in text
    assert [table for table in tables(config) if f"[{table}]: " not in text] == []
    assert "Relative paths are relative to the current directory" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_of_a_command_is_explained(name):
    for argument, keywords in COMMANDS[name].arguments.items():
        assert len(keywords.get("help", "").split()) >= 3, argument


def test_the_reference_is_stored_beside_the_configs(printed):
    stored = (TOP / "jobs" / "CONFIG.md").read_text()
    assert printed("config", "reference") == stored, "mrkd config reference > jobs/CONFIG.md"


@pytest.mark.parametrize("verb", VERBS)
def test_a_schema_is_printed_for_editors(printed, verb):
    schema = json.loads(printed("config", "schema", verb))
    assert {"workspace", "run"} <= set(schema["required"])
    assert schema["additionalProperties"] is False
