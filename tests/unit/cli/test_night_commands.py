"""`mrkd nights ...` from the command line to a table, a verdict, an exit code."""

import json

import pytest

from mrkd import cli, storage
from mrkd.config import ArchiveConfig
from mrkd.nights.archive import list_images
from mrkd.reports import write_page
from tests.support.closed_nights import failed, scored, write_night
from tests.support.comparisons import write_comparison


@pytest.fixture
def nights(tmp_path, capsys):
    """Exit code, lines of the tables and summary of `mrkd nights`, on a workspace of two nights."""
    rows = [scored(f"file:///no/{n}.png", n / 100) for n in range(60)]
    write_night(str(tmp_path), "a", [*rows, failed("file:///no/x.png")])
    flipped = scored("file:///no/0.png", 0.9, model_version="v2", image_etag="e2")
    write_night(str(tmp_path), "b", [flipped, *rows[1:], failed("file:///no/x.png")])
    write_night(str(tmp_path), "c", [scored("file:///no/else.png", 0.1)])

    def run(*argv):
        exit_code = cli.main(["nights", *argv, "--workspace", str(tmp_path)])
        *table, last = capsys.readouterr().out.splitlines()
        summary = json.loads(last)
        assert summary["exit_code"] == exit_code
        return exit_code, table, summary

    return run


def test_compare_prints_a_line_a_category_and_stores_rows_page_and_verdict(nights, tmp_path):
    exit_code, table, summary = nights("compare", "a", "b")
    assert exit_code == 0
    assert table[0].split()[:3] == ["category", "images", "ok_to_nok"]
    assert table[1].split()[:3] == ["plate", "61", "1"]
    assert summary["counts"]["ok_to_nok"] == 1
    assert summary["reasons"] == ["1 images have other bytes in the second night"]
    folder = f"file://{tmp_path}/comparisons/a--b"
    names = {file.uri.removeprefix(f"{folder}/") for file in storage.list_files(folder)}
    assert names == {"comparison.parquet", "report.html", "summary.json"}
    assert storage.read_json(f"{folder}/summary.json") == summary


def test_nights_without_a_common_image_are_told(nights):
    exit_code, _, summary = nights("compare", "a", "c")
    assert exit_code == 0
    assert "no image in common" in summary["reasons"][0]


def test_the_page_is_built_again_from_what_is_stored(tmp_path):
    found = write_comparison(tmp_path)
    assert write_page(found.uri) == f"{found.uri}/report.html"
    assert (
        "<title>Nights night-1 and night-2</title>" in storage.read(write_page(found.uri)).decode()
    )


def test_show_prints_a_line_for_each_night_and_writes_a_page_where_one_is_wanted(nights, tmp_path):
    exit_code, table, summary = nights("show", "/no/0.png", "--page", str(tmp_path / "0.html"))
    assert exit_code == 0
    assert [line.split()[0] for line in table[:3]] == ["night", "a/1", "b/1"]
    assert summary["counts"] == {"rows": 2, "nights": 2, "ok": 1, "nok": 1, "error": 0}
    assert summary["uris"] == {"report": f"file://{tmp_path}/0.html"}
    assert "<title>0.png</title>" in (tmp_path / "0.html").read_text()
    exit_code, _, summary = nights("show", "/no/0.pgn")
    assert (exit_code, summary["uris"]) == (1, {})
    assert "none of the 3 nights" in summary["reasons"][0]


def test_prune_lists_first_and_deletes_only_when_told_to(nights, tmp_path):
    shard = tmp_path / "nights/a/scores/category=plate/shard-1.parquet"
    before = shard.read_bytes()
    exit_code, table, summary = nights("prune", "--older-than", "0s")
    assert exit_code == 0
    assert [line.split()[0] for line in table[:4]] == ["run", "a", "b", "c"]
    assert summary["counts"]["nights"] == 3
    assert summary["reasons"][0].startswith("nothing was deleted: --yes")
    assert shard.read_bytes() == before
    exit_code, _, summary = nights("prune", "--older-than", "0s", "--yes")
    assert (exit_code, summary["counts"]["nights"], summary["reasons"]) == (0, 3, [])
    exit_code, _, summary = nights("prune", "--older-than", "0s")
    assert (exit_code, summary["counts"]["nights"]) == (0, 0)


def test_a_night_that_cannot_be_pruned_fails_the_command_and_no_other_night(nights, tmp_path):
    (tmp_path / "nights/a/scores/category=plate/shard-1.parquet").write_bytes(b"damaged")
    exit_code, _, summary = nights("prune", "--older-than", "0s", "--yes")
    assert (exit_code, summary["state"]) == (1, "failed")
    assert summary["counts"]["nights"] == 2
    assert "not a whole Parquet file" in summary["reasons"][0]


def test_try_threshold_counts_and_lists_the_nearest_flips(nights):
    exit_code, table, summary = nights(
        "try-threshold", "a", "--category", "plate", "--threshold", "0.1"
    )
    assert exit_code == 0
    assert summary["counts"] == {
        "ok": 51,
        "nok": 9,
        "ok_then": 11,
        "nok_then": 49,
        "ok_to_nok": 40,
        "nok_to_ok": 0,
        "errors": 1,
    }
    assert "the 20 nearest" in summary["reasons"][0]
    assert table[4].startswith("file:///no/11.png")
    assert len(table) == 3 + 1 + 20 + 1


def test_several_models_in_one_night_are_told(nights):
    _, _, summary = nights("try-threshold", "b", "--category", "plate", "--threshold", "0.5")
    assert summary["reasons"][0].startswith("2 models or calibrations decided in this night")


def test_manifest_lists_an_archive_into_a_file_that_a_night_reads(tmp_path, capsys, monkeypatch):
    (tmp_path / "archive" / "plate").mkdir(parents=True)
    for name in ("1.png", "2.png", "notes.txt"):
        (tmp_path / "archive" / "plate" / name).write_bytes(b"image")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["manifest", "archive", "--out", "list.parquet"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["counts"] == {"images": 2, "members": 0, "errors": 0, "bytes": 10}
    assert summary["uris"] == {"manifest": f"file://{tmp_path}/list.parquet"}
    config = ArchiveConfig("archive", manifest=summary["uris"]["manifest"])
    assert list_images(config).num_rows == 2


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["compare", "a", "a"], 2, "name two"),
        (["compare", "a", "../b"], 2, "is not a name"),
        (["compare", "a", "z"], 1, "no closed revision"),
        (
            ["try-threshold", "a", "--category", "plat", "--threshold", "1"],
            1,
            "did you mean 'plate'",
        ),
        (
            ["try-threshold", "a", "--category", "plate", "--threshold", "nan"],
            2,
            "--threshold is nan",
        ),
        (["try-threshold", "a", "--category", "plate"], 2, "required: --threshold"),
        (["try-threshold", "../a", "--category", "plate", "--threshold", "1"], 2, "is not a name"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(nights, tmp_path, argv, code, words):
    before = storage.list_files(str(tmp_path))
    exit_code, _, summary = nights(*argv)
    assert exit_code == code
    assert words in summary["reasons"][0]
    assert storage.list_files(str(tmp_path)) == before
