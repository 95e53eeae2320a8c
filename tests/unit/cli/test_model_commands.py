"""`mrkd models ...` and `mrkd report` from the command line to a table, a verdict, an exit code."""

import getpass
import json

import pytest

from mrkd import cli, storage
from mrkd.model.registry import promotions
from tests.support.versions import gate, store_version


@pytest.fixture
def workspace(tmp_path):
    """`aa` is the champion of plate, `bb` was held."""
    workspace = str(tmp_path / "workspace")
    store_version(workspace, "aa")
    store_version(workspace, "bb", learning_rate=0.01)
    promotions.promote(workspace, "plate", "aa", by="fleet", why="first", gate=gate(0.9, "first"))
    promotions.hold(workspace, "plate", "bb", by="fleet", reason="fell", gate=gate(0.7, "held"))
    return workspace


@pytest.fixture
def models(workspace, capsys):
    """Exit code, lines of the tables and summary of `mrkd models`, on the workspace."""

    def run(*argv):
        exit_code = cli.main(["models", *argv, "--workspace", workspace])
        *table, last = capsys.readouterr().out.splitlines()
        summary = json.loads(last)
        assert summary["exit_code"] == exit_code
        return exit_code, table, summary

    return run


def test_list_prints_a_table_and_the_verdict_below(models):
    exit_code, table, summary = models("list", "--category", "p*")
    assert exit_code == 0
    names, first, second = (line.split() for line in table if line)
    assert names[:4] == ["category", "version", "state", "image_auroc"]
    assert first[:4] == ["plate", "aa", "champion", "0.9"]
    assert second[:4] == ["plate", "bb", "held", "0.7"]
    assert (summary["command"], summary["state"]) == ("models list", "done")
    assert summary["counts"] == {"categories": 1, "versions": 2, "held": 1}


def test_columns_start_where_their_names_do(models):
    _, table, _ = models("list")
    rows = [line for line in table if line]
    column = rows[0].index("state")
    assert [line[column:].split()[0] for line in rows] == ["state", "champion", "held"]


def test_show_is_of_the_champion_unless_a_version_is_named(models):
    _, table, summary = models("show", "plate")
    facts = dict(line.split(maxsplit=1) for line in table[1 : table.index("")])
    assert (facts["version"], facts["state"]) == ("aa", "champion")
    assert facts["calibration.threshold"] == "1.125"
    assert facts["train.learning_rate"] == "0.001"
    assert facts["model.taps"] == "1,3"
    assert summary["counts"] == {"calibrations": 1, "promotions": 1}
    assert storage.exists(storage.join(summary["uris"]["model"], "model.json"))
    _, table, _ = models("show", "plate", "bb")
    assert any(line.split() == ["state", "held"] for line in table)


def test_compare_prints_what_differs_alone(models):
    _, table, summary = models("compare", "plate", "aa", "bb")
    assert ["train.learning_rate", "0.001", "0.01"] in [line.split() for line in table]
    assert not any(line.startswith("model.") for line in table)
    assert summary["counts"]["differences"] == len([line for line in table if line]) - 1
    assert models("compare", "plate", "aa", "aa")[1] == []


def test_promote_stores_who_and_why_on_one_line(models, workspace):
    exit_code, table, summary = models("promote", "plate", "bb", "--why", "the labels\nwere wrong")
    champion = promotions.champion(workspace, "plate")
    assert exit_code == 0
    assert summary["counts"] == {"promotion": 2, "calibration": 1}
    assert (champion.version, champion.why) == ("bb", "the labels were wrong")
    assert champion.by == getpass.getuser()
    assert [line.split()[:2] for line in table[1:3]] == [["2", "bb"], ["1", "aa"]]


def test_set_threshold_for_a_rate_is_promoted_and_shown(models, workspace):
    exit_code, table, summary = models(
        "set-threshold", "plate", "--false-call-rate", "0.25", "--why", "fewer calls"
    )
    assert exit_code == 0
    assert summary["counts"] == {"calibration": 2, "promotion": 2}
    assert [line.split()[:2] for line in table[1:3]] == [["1", "1.125"], ["2", "0.875"]]
    assert promotions.champion(workspace, "plate").calibration == 2
    assert summary["reasons"] == []


def test_set_threshold_by_value_may_be_negative_and_for_another_version(models, workspace):
    options = ["plate", "--version", "bb", "--threshold", "-0.5", "--why", "a test"]
    _, _, summary = models("set-threshold", *options)
    assert summary["counts"] == {"calibration": 2}
    assert summary["reasons"] == [
        "version bb is held: it decides by calibration 2 once it is promoted"
    ]
    assert promotions.champion(workspace, "plate").version == "aa"


def test_a_rate_that_the_images_do_not_support_is_stored_and_said(models):
    options = ["plate", "--false-call-rate", "0.01", "--why", "strict"]
    exit_code, _, summary = models("set-threshold", *options)
    assert exit_code == 0
    assert "19 good images vouch for a false-call rate of 5.00%" in summary["reasons"][0]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["list", "--category", "x*"], "no model of 'x*'; known: plate"),
        (["show", "plat"], "no model of 'plat'; did you mean 'plate'?"),
        (["show", "plate", "zz"], "no complete version 'zz'"),
        (["compare", "plate", "aa", "zz"], "no complete version 'zz'"),
        (["promote", "plate", "zz", "--why", "w"], "no complete version 'zz'"),
        (["promote", "plate", "bb", "--calibration", "7", "--why", "w"], "no calibration 7"),
        (["set-threshold", "ring", "--threshold", "1", "--why", "w"], "no model of 'ring'"),
    ],
)
def test_what_is_not_there_is_exit_1_and_says_what_is(models, workspace, argv, words):
    before = storage.list_files(workspace)
    exit_code, _, summary = models(*argv)
    assert (exit_code, summary["state"]) == (1, "failed")
    assert words in summary["reasons"][0]
    assert storage.list_files(workspace) == before


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["show", "../plate"], "category '../plate' is not a name"),
        (["show", "plate", "../ring/ee"], "version '../ring/ee' is not a name"),
        (["compare", "plate", "aa", "a/b"], "version 'a/b' is not a name"),
        (["promote", "plate", "bb"], "arguments are required: --why"),
        (["promote", "plate", "bb", "--why", " "], "--why is empty"),
        (["promote", "plate", "bb", "--wy", "w"], "arguments are required: --why"),
        (["list", "--categry", "p*"], "unknown argument '--categry'; did you mean '--category'?"),
        (["set-threshold", "plate", "--why", "w"], "--threshold --false-call-rate is required"),
        (["set-threshold", "plate", "--threshold", "nan", "--why", "w"], "--threshold is nan"),
        (["set-threshold", "plate", "--threshold", "high", "--why", "w"], "invalid float value"),
        (["set-threshold", "plate", "--false-call-rate", "1", "--why", "w"], "between 1e-06 and"),
        (["lst"], "unknown command 'models lst'; did you mean 'list'?"),
    ],
)
def test_bad_usage_is_exit_2_and_nothing_is_written(models, workspace, argv, words):
    before = storage.list_files(workspace)
    exit_code, _, summary = models(*argv)
    assert (exit_code, summary["state"]) == (2, "refused")
    assert words in summary["reasons"][0]
    assert storage.list_files(workspace) == before


def test_both_a_threshold_and_a_rate_are_refused(models):
    options = ["plate", "--threshold", "1", "--false-call-rate", "0.1", "--why", "w"]
    exit_code, _, summary = models("set-threshold", *options)
    assert exit_code == 2
    assert "not allowed with argument" in summary["reasons"][0]


def test_a_report_of_a_folder_that_is_no_run_says_what_was_looked_for(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 1
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert str(tmp_path) in summary["reasons"][0]
    assert not list(tmp_path.iterdir())
