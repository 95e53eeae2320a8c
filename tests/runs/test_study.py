import hashlib
import json
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from mrkd import reports
from mrkd.config import EvalConfig
from mrkd.evaluation.ablation import tables_of
from mrkd.evaluation.category_metrics import MEAN
from mrkd.model.teacher.architectures import build
from mrkd.reports.ablation.load import load_study_data
from mrkd.runs.evaluate import run as evaluate
from mrkd.storage import schema
from tests.support.file_server import serving
from tests.support.models import FIT, MODEL
from tests.support.mvtec import make_mvtec
from tests.support.parts import make_parts
from tests.support.plants import HERE
from tests.support.under_fire import UnderFire


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_parts(tmp_path_factory.mktemp("study") / "parts")


def config(root, workspace, **values):
    raw = {
        "workspace": str(workspace),
        "run": "study",
        "data": {"root": str(root)},
        "protocol": "mvtec",
        "resamples": 40,
        "model": MODEL.to_dict(),
        "train": FIT.to_dict(),
    }
    return EvalConfig.from_dict(raw).with_values(values)


@pytest.fixture(scope="module")
def studied(root, tmp_path_factory):
    """An evaluation of two categories with two seeds; its config, verdict and folder."""
    one = config(root, tmp_path_factory.mktemp("studied"), num_seeds=2)
    summary = evaluate.run(one, HERE)
    return one, summary, Path(one.workspace) / "evaluations" / "study"


def rows(folder, name="metrics", **values):
    found = pq.read_table(folder / f"{name}.parquet").to_pylist()
    return [row for row in found if all(row[key] == value for key, value in values.items())]


def test_every_arm_is_trained_and_measured_on_every_category_with_every_seed(studied):
    _, summary, folder = studied
    assert (summary.exit_code, summary.state) == (0, "done")
    assert summary.counts == {"runs": 16, "failed": 0, "categories": 2}
    assert pq.read_schema(folder / "metrics.parquet").equals(schema.METRICS)
    assert pq.read_schema(folder / "differences.parquet").equals(schema.DIFFERENCES)
    for arm in ("MRKD", "plain RD", "cell Gaussians alone", "nearest neighbour"):
        for category in ("plate", "ring"):
            found = rows(folder, arm=arm, category=category, metric="aupro", defect=None)
            assert [row["seed"] for row in found] == [0, 1, None]
            assert len({row["config_digest"] for row in found[:2]}) == 1
            values = [row["value"] for row in found]
            assert values[2] == pytest.approx((values[0] + values[1]) / 2)
            assert found[2]["low"] <= values[2] <= found[2]["high"]
    assert {row["category"] for row in rows(folder, name="operating")} == {"plate", "ring"}


def test_the_mean_over_categories_is_that_of_their_means(studied):
    _, _, folder = studied
    for defect in (None, MEAN):
        found = rows(folder, arm="MRKD", metric="aupro", defect=defect, seed=None)
        by_category = {row["category"]: row["value"] for row in found}
        expected = (by_category["plate"] + by_category["ring"]) / 2
        assert by_category[None] == pytest.approx(expected)


def test_differences_are_those_of_the_means_on_the_same_seeds(studied):
    _, _, folder = studied
    (gap,) = rows(
        folder, "differences", arm="plain RD", category="ring", metric="image_auroc", defect=None
    )
    assert gap["base"] == "MRKD"
    means, seeds = {}, {}
    for arm in ("MRKD", "plain RD"):
        *seeds[arm], means[arm] = [
            row["value"]
            for row in rows(folder, arm=arm, category="ring", metric="image_auroc", defect=None)
        ]
    assert gap["value"] == pytest.approx(means["plain RD"] - means["MRKD"])
    expected = [one - other for one, other in zip(seeds["plain RD"], seeds["MRKD"], strict=True)]
    assert gap["by_seed"] == pytest.approx(expected)
    assert gap["low"] <= gap["high"]


def test_champions_are_left_as_they_are(studied):
    one, _, _ = studied
    assert [path.name for path in Path(one.workspace).iterdir()] == ["evaluations"]


def test_the_page_and_the_tables_can_be_read(studied):
    _, summary, folder = studied
    html = (folder / "report.html").read_text()
    assert summary.uris["report"].endswith("report.html")
    data = load_study_data(str(folder))
    assert [one.name for one in data.categories] == ["plate", "ring"]
    kinds = {(one.image.row["defect"], one.rank) for one in data.categories[0].shown}
    assert kinds == {(k, p) for k in ("scratch", "spot") for p in ("best", "median", "worst")}
    assert [one.variant for one in data.categories[0].shown[0].maps] == [
        "MRKD",
        "plain RD",
        "nearest neighbour",
    ]
    assert "RANDOM WEIGHTS" in html
    text = (folder / "tables.md").read_text()
    mean = rows(folder, arm="MRKD", category=None, metric="image_auroc", seed=None)[0]
    assert f"| MRKD | {mean['value']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}] |" in text
    assert reports.write_page(str(folder)) == summary.uris["report"]
    assert (folder / "report.html").read_text() == html


def test_the_same_call_makes_nothing_again_and_a_further_seed_alone(studied, root):
    one, _, folder = studied
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}
    assert evaluate.run(one, HERE).exit_code == 0
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}
    more = one.with_values({"num_seeds": 3, "baselines": ["nearest_neighbour"]})
    assert evaluate.run(more, HERE).counts["runs"] == 12
    after = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*.json")}
    assert len(after) == 16 + 4
    assert all(after[path] == when for path, when in before.items() if path in after)


def test_a_category_that_fails_keeps_no_other_from_its_figures(root, tmp_path):
    shutil.copytree(root / "plate", tmp_path / "parts" / "plate")
    few = tmp_path / "parts" / "few"
    shutil.copytree(root / "ring", few)
    for picture in sorted((few / "train" / "good").iterdir())[3:]:
        picture.unlink()
    one = config(tmp_path / "parts", tmp_path, baselines=["nearest_neighbour"])
    summary = evaluate.run(one, HERE)
    assert (summary.exit_code, summary.counts["failed"]) == (3, 2)
    assert summary.reasons[0].startswith("category few, MRKD, seed 0: ")
    folder = tmp_path / "evaluations" / "study"
    assert {row["category"] for row in rows(folder)} == {"plate"}
    assert "failed:</strong>" in (folder / "report.html").read_text()


def test_a_killed_evaluation_goes_on_where_it_was(root, tmp_path):
    values = {"data.categories": ["ring"], "num_seeds": 2, "train.max_steps": 12}
    one = config(root, tmp_path, executor="in_process", **values)
    toml = tmp_path / "eval.toml"
    toml.write_text(one.to_toml())
    command = [sys.executable, "-m", "jobs.evaluate", str(toml)]
    fire = UnderFire(command, {}, tmp_path / "log", random.Random(0))
    runs = tmp_path / "evaluations" / "study" / "runs"
    try:
        fire.start()
        until = time.monotonic() + 200
        while len(list(runs.rglob("*.json"))) < 2:
            assert fire.driver.poll() is None, fire.tail()
            assert time.monotonic() < until, fire.tail()
            time.sleep(0.02)
        fire.driver.send_signal(signal.SIGKILL)
    finally:
        fire.end()
    done = {path: path.stat().st_mtime_ns for path in runs.rglob("*.json")}
    assert 2 <= len(done) < 8
    summary = evaluate.run(one, HERE)
    assert summary.exit_code == 0, summary.reasons
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    assert len(list(runs.rglob("*.json"))) == 8


def test_an_ablation_sets_its_arms_against_its_base(root, tmp_path):
    values = {"model.fmm": True, "ablation": "levels", "data.categories": ["ring"]}
    one = config(root, tmp_path, **values)
    assert evaluate.run(one, HERE).counts["runs"] == 3
    folder = tmp_path / "evaluations" / "study"
    (table,) = tables_of(one)
    gaps = rows(folder, "differences", metric="image_auroc", defect=None)
    assert [row["arm"] for row in gaps] == ["1", "2"]
    assert {row["base"] for row in gaps} == {table.base} == {"1, 2"}
    record = json.loads((folder / "study.json").read_text())
    assert len(record["runs"][0]["history"]) >= 1


def test_categories_of_mvtec_run_through_its_protocol_with_official_weights(tmp_path, monkeypatch):
    """Two textures and an object, of whose published figures the page shows the mean of all."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    categories = ["bottle", "carpet", "wood"]
    root = make_mvtec(tmp_path / "parts", categories, train=24)
    torch.manual_seed(0)
    checkpoint = tmp_path / "weights" / "resnet18-official.pth"
    checkpoint.parent.mkdir()
    torch.save(build("resnet18").state_dict(), checkpoint)
    values = {
        "model": {"preset": "paper", "backbone": "resnet18", "image_size": 64},
        "train": {"max_steps": 4, "batch_size": 8},
    }
    with serving(checkpoint.parent) as url:
        one = config(root, tmp_path, baselines=["nearest_neighbour"])
        raw = one.to_dict() | values
        raw["model"]["weights"] = f"{url}/{checkpoint.name}"
        raw["model"]["weights_sha256"] = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        raw["train"] |= {"validation_share": 0.2, "calibration_share": 0.25}
        summary = evaluate.run(EvalConfig.from_dict(raw), HERE)
    assert summary.exit_code == 0, summary.reasons
    assert summary.counts == {"runs": 6, "failed": 0, "categories": 3}
    folder = tmp_path / "evaluations" / "study"
    metrics = pq.read_table(folder / "metrics.parquet")
    means = metrics.filter(pc.field("category").is_null() & pc.field("defect").is_null())
    assert set(means["metric"].to_pylist()) >= {"image_auroc", "pixel_auroc", "aupro"}
    assert set(metrics["category"].to_pylist()) == {*categories, None}
    html = (folder / "report.html").read_text()
    # Beside the published figures, which are of other data and another network.
    assert "<s>99.1 / 98.5 / 95.9</s>" in html
    assert "the backbone is resnet18, published wide_resnet50_2" in html
    assert "training images, MVTec AD" in html
