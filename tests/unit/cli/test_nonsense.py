"""Nonsense on the command line: every command ends with one line, one summary and 1 or 2."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from mrkd import cli

MAIN = importlib.import_module("mrkd.cli.main")  # `mrkd.cli.main` itself is its function
NAMES = sorted({*MAIN.VERBS, *MAIN.COMMANDS} - {"demo"})  # a demo takes any folder, and trains
RUN = "import sys; from mrkd.cli import main; sys.exit(main())"


@pytest.fixture
def nonsense(tmp_path, monkeypatch):
    """Words where a command expects a file or a name; the workspace is a folder of the test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "binary.toml").write_bytes(bytes(range(256)))
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    (tmp_path / "open.toml").write_text("[data\n")
    (tmp_path / "deep.toml").write_text("a = " + "[" * 100_000)
    long = "x" * 300 + ".toml"
    return [
        *("absent.toml", "folder.toml", "binary.toml", "loop.toml", "open.toml", "deep.toml"),
        *("/dev/null/x.toml", "\udcff.toml", long, ""),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_nonsense_ends_with_one_line_and_a_summary(name, nonsense, capsys):
    for word in nonsense:
        for words in ([word], [word, "--workspace", "w"], [word, word, "--workspace", "w"]):
            argv = [*name.split(), *words]
            exit_code = cli.main(argv)
            out, err = capsys.readouterr()
            assert exit_code in (1, 2), argv
            (reason,) = json.loads(out.splitlines()[-1])["reasons"]
            assert err.splitlines() == [f"mrkd: {reason}"], argv


@pytest.mark.parametrize(
    "words",
    [
        [b"train", b"\xff.toml"],
        [b"tr\xffin"],
        [b"report", b"\xff"],
        [b"score", b"n.toml", b"--date", b"2026-11-23\xff"],
        [b"score", b"n.toml", b"--date", b"2026-11-23", b"--run", b"n-{date:\xff}"],
        [b"score", b"n.toml", b"--date", b"2026-11-23", b"--late-window", b"3\xff"],
        [b"score", b"n.toml", b"--date", b"2026-11-23", b"--archive.uri", b"\xff{date}"],
    ],
)
def test_bytes_that_are_no_text_end_with_one_line_and_a_summary(tmp_path, words):
    (tmp_path / "n.toml").write_text(
        'workspace = "w"\nrun = "n-{date}"\narchive.uri = "a/{date}"\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert json.loads(done.stdout)["exit_code"] == done.returncode
    assert len(done.stderr.splitlines()) == 1
