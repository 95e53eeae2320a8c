"""A command line to a config, a verdict and an exit code."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mrkd import cli
from mrkd.cli.run_commands import VERBS, Verb
from mrkd.config import TrainConfig
from mrkd.errors import ArtefactError
from mrkd.model.teacher.weights import WEIGHTS
from mrkd.run_summary import Summary
from tests.support.parts import make_parts

FLEET = """
workspace = "s3://plant/mrkd"
run = "fleet-1"
[data]
root = "parts"
[model]
preset = "paper"
"""


@pytest.fixture
def fleet_toml(tmp_path):
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    return str(path)


@pytest.fixture
def shown(fleet_toml, capsys):
    """The config that `mrkd train` makes of the file and these flags."""

    def show(*flags):
        assert cli.main(["train", fleet_toml, *flags, "--show-config"]) == 0
        return TrainConfig.from_toml(capsys.readouterr().out)

    return show


@pytest.fixture
def verdict(capsys):
    """Exit code, the summary on stdout's last line, and stderr, of a command line."""

    def of(*argv):
        exit_code = cli.main(list(argv))
        out, err = capsys.readouterr()
        summary = json.loads(out.splitlines()[-1])
        assert summary["exit_code"] == exit_code
        return exit_code, summary, err

    return of


def test_show_config_prints_the_resolved_config_and_starts_nothing(shown):
    config = shown()
    assert config.run == "fleet-1"
    assert config.model.sru_gate == "hard"  # the preset's


@pytest.mark.parametrize(
    ("flags", "key", "value"),
    [
        (["--run", "0012"], "run", "0012"),
        (["--train.mask-rate", "0.3"], "train.mask_rate", 0.3),
        (["--train.mask_rate=0.3"], "train.mask_rate", 0.3),
        (["--train.mask-rate", "0"], "train.mask_rate", 0.0),
        (["--train.learning-rate", "1e-4"], "train.learning_rate", 1e-4),
        (["--model.fmm", "false"], "model.fmm", False),
        (["--model.levels", "2,3"], "model.levels", (2, 3)),
        (["--model.levels", "[2, 3]"], "model.levels", (2, 3)),
        (["--model.levels", "2"], "model.levels", (2,)),
        (["--data.categories", "[ab]*, 0012"], "data.categories", ("[ab]*", "0012")),
        (["--model.sru-gate", "soft"], "model.sru_gate", "soft"),
        (["--fleet.force", "true"], "fleet.force", True),
        (["--force"], "fleet.force", True),
        (
            ["--roi.polygons", "[[[0, 0], [9, 0], [9, 9.5]]]"],
            "roi.polygons",
            (((0.0, 0.0), (9.0, 0.0), (9.0, 9.5)),),
        ),
        (["--train.seed", "1", "--train.seed", "2"], "train.seed", 2),
    ],
)
def test_a_flag_sets_its_key_by_the_keys_type(shown, flags, key, value):
    config = shown(*flags)
    for name in key.split("."):
        config = getattr(config, name)
    assert (config, type(config)) == (value, type(value))


def test_flags_lie_above_the_file_and_the_file_above_the_preset(shown):
    assert shown("--model.preset", "default").model.sru_gate == "soft"
    config = shown("--model.sru-gate", "soft")
    assert (config.model.preset, config.model.sru_gate) == ("paper", "soft")


def test_local_paths_are_made_absolute_and_uris_are_left(shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = shown()
    assert config.data.root == str(tmp_path / "parts")
    assert config.workspace == "s3://plant/mrkd"
    assert config.model.weights == "auto"
    assert shown("--model.weights", "w.pth").model.weights == str(tmp_path / "w.pth")
    assert shown("--data.split-csv", "s.csv").data.split_csv == str(tmp_path / "s.csv")
    for name in (*WEIGHTS, "random"):
        assert shown("--model.weights", name).model.weights == name


def test_paths_of_single_categories_are_made_absolute_too(fleet_toml, shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Path(fleet_toml).open("a") as file:
        file.write(
            """
            [roi]
            mask = "belt.png"
            [category."plate.v2*"]
            roi.mask = "masks/plate.png"
            model.weights = "w.pth"
            [category.ring]
            roi.mask = "s3://plant/ring.png"
            model.weights = "random"
            train.seed = 3
            """
        )
    config = shown()
    assert config.roi.mask == str(tmp_path / "belt.png")
    plate, ring = (config.for_category(name) for name in ("plate.v2b", "ring"))
    assert plate.roi.mask == str(tmp_path / "masks" / "plate.png")
    assert plate.model.weights == str(tmp_path / "w.pth")
    assert (ring.roi.mask, ring.model.weights) == ("s3://plant/ring.png", "random")
    assert ring.train.seed == 3


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--train.mask-rat", "0.3"], "unknown argument '--train.mask-rat'; did you mean '--train"),
        (["--zzz"], "unknown argument '--zzz'"),
        (["extra"], "unknown argument 'extra'"),
        (["--train.seed", "abc"], "train.seed must be int, found 'abc'"),
        (["--train.mask-rate", "1"], "train.mask_rate is 1.0: it must lie in [0, 1)"),
        (["--model.levels", "2,x"], "model.levels[1] must be int, found 'x'"),
        (["--train.seed"], "argument --train.seed: expected one argument"),
        (["--run", "../up"], "run '../up' is not a name"),
    ],
)
def test_a_bad_flag_is_exit_2_and_one_clear_line(verdict, fleet_toml, flags, words):
    exit_code, summary, err = verdict("train", fleet_toml, *flags)
    assert (exit_code, summary["state"]) == (2, "refused")
    assert words in summary["reasons"][0]
    assert err.splitlines() == [f"mrkd: {summary['reasons'][0]}"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["inspect"], "unknown command 'inspect'; known: config, demo, evaluate, manifest, "),
        (["--zzz"], "unknown argument '--zzz'"),
        (["models", "--zzz"], "unknown argument '--zzz'"),
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["model", "list"], "unknown command 'model'; did you mean 'models'?"),
        (["nights", "compar"], "unknown command 'nights compar'; did you mean 'compare'?"),
        (["config", "schema", "trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["train"], "the following arguments are required: FILE.toml"),
        (["train", "absent.toml"], "cannot read the config 'absent.toml'"),
        (["demo", "--ou", "x"], "unknown argument '--ou'; did you mean '--out'?"),
    ],
)
def test_bad_usage_is_exit_2_and_one_clear_line(verdict, argv, words):
    exit_code, summary, err = verdict(*argv)
    assert exit_code == 2
    assert words in summary["reasons"][0]
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run = ", "not a TOML file"),
        (
            FLEET.replace("preset", "prest"),
            "unknown key 'prest' in [model]; did you mean 'preset'?",
        ),
        (FLEET.replace("root", "folder"), "unknown key 'folder' in [data]"),
        (FLEET.replace('root = "parts"', ""), "missing key 'root' in [data]"),
        (FLEET.replace('run = "fleet-1"', ""), "missing key 'run'"),
    ],
)
def test_a_bad_file_is_exit_2(verdict, tmp_path, text, words):
    (tmp_path / "bad.toml").write_text(text)
    exit_code, summary, _ = verdict("train", str(tmp_path / "bad.toml"))
    assert exit_code == 2
    assert words in summary["reasons"][0]


def test_a_file_with_the_mark_that_windows_editors_put_is_read(fleet_toml, shown):
    path = Path(fleet_toml)
    before = shown()
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert shown() == before


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (FLEET.encode("utf-16"), "is not UTF-8: it begins with the byte 0xff of UTF-16; save it"),
        (f"# ä\n{FLEET}".encode("latin-1"), "line 1 is not UTF-8: it holds the byte 0xe4"),
        (FLEET.encode("utf-16-le"), "holds the byte 0x00, which no text does: it may be UTF-16"),
        (f"seed = {'9' * 5000}\n{FLEET}".encode(), "not a TOML file: Exceeds the limit"),
        (f"x = {'[' * 5000}\n{FLEET}".encode(), "not a TOML file: maximum recursion depth"),
        (f"{FLEET}\n[price]\ncpu_hour = 1{'0' * 400}".encode(), "price.cpu_hour must be float"),
    ],
)
def test_a_file_of_another_encoding_or_beyond_all_bounds_is_exit_2(verdict, tmp_path, data, words):
    (tmp_path / "bad.toml").write_bytes(data)
    exit_code, summary, err = verdict("train", str(tmp_path / "bad.toml"))
    assert exit_code == 2
    assert words in summary["reasons"][0]
    assert "Traceback" not in err


def test_a_flag_with_a_number_beyond_all_bounds_is_exit_2(verdict, fleet_toml):
    exit_code, summary, _ = verdict("train", fleet_toml, "--train.seed", "9" * 5000)
    assert (exit_code, summary["state"]) == (2, "refused")


def test_a_plan_names_what_is_not_used_and_categories_that_cannot_be(verdict, fleet_toml, tmp_path):
    parts = make_parts(tmp_path / "own", categories=2)
    (parts / "ring").rename(parts / "ring (new)")
    (parts / "plate" / "train" / "good" / "x.heic").write_bytes(b"x")
    places = ("--data.root", str(parts), "--workspace", str(tmp_path / "w"))
    small = ["--model.weights", "random", "--model.image-size", "64", "--train.batch-size", "4"]
    small += ["--model.backbone", "resnet18"]
    exit_code, summary, _ = verdict("train", fleet_toml, *places, *small, "--plan")
    assert exit_code == 0
    text = "\n".join(summary["reasons"])
    assert "category ring (new): category 'ring (new)' is not a name" in text
    assert "category plate: 1 file is not used, by ending (1 .heic)" in text


def test_a_missing_root_is_exit_2_and_nothing_is_written(verdict, fleet_toml, tmp_path):
    workspace, root = tmp_path / "workspace", tmp_path / "absent"
    places = ["--workspace", str(workspace), "--data.root", str(root)]
    exit_code, summary, _ = verdict("train", fleet_toml, *places, "--plan")
    assert exit_code == 2
    assert str(root) in summary["reasons"][0]
    assert not workspace.exists()


def test_a_plan_of_a_training_counts_images_and_bytes_and_stops(verdict, fleet_toml, tmp_path):
    root, workspace = make_parts(tmp_path / "parts", train=3), tmp_path / "workspace"
    places = ["--workspace", str(workspace), "--data.root", str(root)]
    small = ["--model.weights", "random", "--model.image-size", "64", "--train.batch-size", "4"]
    small += ["--model.backbone", "resnet18"]
    exit_code, summary, _ = verdict("train", fleet_toml, *places, *small, "--plan")
    num_bytes = sum(file.stat().st_size for file in root.glob("*/train/good/*.png"))
    counts = summary["counts"]
    assert (exit_code, summary["state"]) == (0, "planned")
    assert (counts["categories"], counts["up_to_date"]) == (2, 0)
    assert (counts["images"], counts["bytes"]) == (6, num_bytes)
    assert 0 < counts["longest_seconds"] < counts["cpu_seconds"] + counts["gpu_seconds"]
    assert not workspace.exists()


def test_a_plan_of_a_night_counts_images_and_bytes_and_stops(verdict, tmp_path):
    root = make_parts(tmp_path / "parts", train=3)
    (root / "plate" / "notes.txt").write_text("no image")
    toml = tmp_path / "score.toml"
    toml.write_text(f'workspace = "{tmp_path}/w"\nrun = "night-1"\n[archive]\nuri = "{root}"\n')
    exit_code, summary, _ = verdict("score", str(toml), "--plan")
    images = list(root.rglob("*.png"))
    assert (exit_code, summary["state"]) == (0, "planned")
    assert summary["counts"]["images"] == len(images)
    assert summary["counts"]["bytes"] == sum(file.stat().st_size for file in images)
    assert not (tmp_path / "w").exists()


def fails(config, executor):
    raise ArtefactError("model.safetensors of plate\nhas another sha256: train it again")


def misses_some(config, executor):
    return Summary("train", config.run, 3, "partial", {"failed": 1}, reasons=["plate: no images"])


@pytest.mark.parametrize(("work", "expected"), [(fails, 1), (misses_some, 3)])
def test_what_a_run_says_is_the_exit_code(verdict, fleet_toml, monkeypatch, work, expected):
    monkeypatch.setitem(VERBS, "train", Verb("", TrainConfig, work))
    exit_code, summary, err = verdict("train", fleet_toml)
    assert exit_code == expected
    assert (summary["command"], summary["run"]) == ("train", "fleet-1")
    assert len(summary["reasons"]) == 1
    assert len(err.splitlines()) == (1 if work is fails else 0)


def is_interrupted(config, executor):
    raise KeyboardInterrupt


def test_ctrl_c_ends_with_a_summary(verdict, fleet_toml, monkeypatch):
    monkeypatch.setitem(VERBS, "train", Verb("", TrainConfig, is_interrupted))
    exit_code, summary, err = verdict("train", fleet_toml)
    assert (exit_code, summary["state"], summary["run"]) == (1, "failed", "fleet-1")
    assert "Ctrl-C" in summary["reasons"][0]
    assert err == f"mrkd: {summary['reasons'][0]}\n"


def has_a_bug(config, executor):
    raise ZeroDivisionError("by nothing")


def test_a_bug_prints_a_summary_and_its_traceback(fleet_toml, monkeypatch, capsys):
    monkeypatch.setitem(VERBS, "train", Verb("", TrainConfig, has_a_bug))
    with pytest.raises(ZeroDivisionError):
        cli.main(["train", fleet_toml])
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["exit_code"], summary["state"], summary["run"]) == (1, "failed", "fleet-1")
    assert "ZeroDivisionError: by nothing" in summary["reasons"][0]


def test_help_comes_within_half_a_second():
    def seconds():
        start = time.perf_counter()
        argv = [sys.executable, "-c", "import mrkd.cli; mrkd.cli.main(['--help'])"]
        subprocess.run(argv, check=True, capture_output=True)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.5  # the best of three: tests share their cores
