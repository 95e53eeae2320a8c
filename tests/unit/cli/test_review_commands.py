"""`mrkd review ...` from the command line to a table, a verdict, an exit code."""

import json
import shutil

import pytest

from mrkd import cli, storage
from mrkd.model.registry import promotions
from mrkd.nights.manifest import open_night
from mrkd.reports import write_page
from tests.support.night_pages import RUN, Plant, write_plant


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a plant: its workspace, and a copy of that as it was written."""
    folder = tmp_path_factory.mktemp("plant")
    write_plant(folder, Plant(num_nights=0))
    shutil.copytree(folder / "workspace", folder / "copy")
    return folder


@pytest.fixture
def review(written, capsys):
    """Exit code, lines of the tables and summary of `mrkd review`; the workspace and its rows."""
    workspace = storage.join(str(written), "workspace")
    columns = ["image_uri", "category", "is_anomalous"]
    rows = open_night(f"{workspace}/nights/{RUN}").to_table(columns=columns).to_pylist()

    def run(*argv):
        exit_code = cli.main(["review", *argv, "--workspace", workspace])
        *table, last = capsys.readouterr().out.splitlines()
        summary = json.loads(last)
        assert summary["exit_code"] == exit_code
        return exit_code, table, summary

    yield run, workspace, rows
    shutil.rmtree(written / "workspace")
    shutil.copytree(written / "copy", written / "workspace")


def labels(folder, rows, called, verdict, number, who="Ann"):
    own = [r["image_uri"] for r in rows if (r["category"], r["is_anomalous"]) == ("ring", called)]
    return [f"{uri},{verdict},{who},2026-11-24" for uri in own[:number]]


def write(folder, lines):
    path = folder / "labels.csv"
    path.write_text("\n".join(["uri,verdict,who,when", *lines]) + "\n")
    return str(path)


def test_an_import_prints_what_came_and_makes_the_pages_again(review, tmp_path):
    run, workspace, rows = review
    night_uri = storage.join(workspace, "nights", RUN)
    write_page(night_uri)
    lines = labels(tmp_path, rows, True, "OK", 1) + labels(tmp_path, rows, False, "NOK", 2)
    exit_code, table, summary = run("import", write(tmp_path, lines))
    assert (exit_code, summary["state"], summary["reasons"]) == (0, "done", [])
    assert table[0].split()[:4] == ["category", "imported", "false_calls", "escapes"]
    assert table[1].split() == ["ring", "3", "1", "2", "0", "0"]
    counts = summary["counts"]
    assert (counts["labels"], counts["imported"], counts["known"]) == (3, 3, 0)
    assert summary["uris"]["reviews"].endswith("/reviews/imports/1.parquet")
    page = storage.read(summary["uris"][f"report {RUN}"]).decode()
    assert "<h2>Reviews</h2>" in page
    exit_code, _, summary = run("import", write(tmp_path, lines))
    assert (exit_code, summary["counts"]["known"], summary["uris"]) == (0, 3, {})


def test_an_image_that_no_night_knows_is_told_and_the_others_are_taken(review, tmp_path):
    run, _, rows = review
    lines = [*labels(tmp_path, rows, True, "OK", 1), "s3://elsewhere/1.png,OK,Ann,2026-11-24"]
    exit_code, _, summary = run("import", write(tmp_path, lines))
    assert (exit_code, summary["state"]) == (3, "partial")
    assert (summary["counts"]["imported"], summary["counts"]["unmatched"]) == (1, 1)
    assert "the first s3://elsewhere/1.png" in summary["reasons"][0]


def test_a_table_that_cannot_be_read_is_refused(review, tmp_path):
    run, *_ = review
    assert run("import", write(tmp_path, ["a.png,maybe,Ann,2026-11-24"]))[0] == 2
    assert run("import", str(tmp_path / "absent.csv"))[0] == 2


def test_thresholds_are_proposed_with_what_they_cost(review, tmp_path):
    run, workspace, rows = review
    storage.write(f"{workspace}/models/ring/v1/model.json", b"{}", if_absent=True)
    promotions.promote(workspace, "ring", "v1", by="test", why="first")
    exit_code, _, summary = run("propose", "--category", "ring")
    assert exit_code == 2
    assert "nobody has reviewed an image that 'ring' version v1 decided" in summary["reasons"][0]
    lines = labels(tmp_path, rows, True, "NOK", 1) + labels(tmp_path, rows, False, "OK", 9)
    run("import", write(tmp_path, lines))
    exit_code, table, summary = run(
        *("propose", "--category", "ring", "--cost-escape", "50", "--cost-false-call", "1")
    )
    assert exit_code == 0
    assert [line.split()[:3] for line in table[1:3]] == [["OK", "78", "9"], ["NOK", "2", "1"]]
    assert table[4].split() == [
        *("rule", "threshold", "false_calls_in_10000", "escapes_in_10000", "cost_in_10000")
    ]
    assert table[5].startswith("the model's own")
    assert any(line.startswith("lowest cost") for line in table)
    assert "mrkd models set-threshold ring --version v1" in summary["reasons"][0]
    assert summary["counts"] == {"seen": 10, "escapes": 0, "false_calls": 0}


def test_what_hinders_a_proposal_is_told(review, tmp_path):
    run, workspace, rows = review
    promotions.promote(workspace, "ring", "v1", by="test", why="first")
    run("import", write(tmp_path, labels(tmp_path, rows, True, "NOK", 2)))
    exit_code, table, summary = run("propose", "--category", "ring")
    assert exit_code == 0
    assert "nobody has looked at images that were called good" in summary["reasons"][0]
    assert not any(line.startswith("the model's own") for line in table)


@pytest.mark.parametrize("costs", [("--cost-escape", "1"), ("--cost-false-call", "-1")])
def test_costs_that_are_none_are_refused(review, costs):
    run, *_ = review
    assert run("propose", "--category", "ring", *costs)[0] == 2
