import json
import shutil
import signal
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mrkd.config import DataConfig, EvalConfig
from mrkd.errors import ConfigError, StoppedError
from mrkd.evaluation.evaluate_model import LABELLED
from mrkd.reports.evaluation.load import load_page_data
from mrkd.runs.evaluate import run as evaluate
from mrkd.runs.in_process import InProcess
from mrkd.storage import schema
from tests.support.plants import HERE


def config(plant, run, *categories, **values):
    data = DataConfig(str(plant.root), categories=categories or ("*",))
    return EvalConfig(str(plant.workspace), run, data, resamples=50).with_values(values)


def test_an_evaluation_stores_rows_metrics_and_why_a_category_failed(plant):
    summary = evaluate.run(config(plant, "all"), HERE)
    assert (summary.exit_code, summary.state) == (3, "partial")
    assert summary.counts == {"categories": 3, "failed": 1, "images": 24, "errors": 0}
    (reason,) = summary.reasons
    assert reason.startswith("category broken: it has no image in part 'test'")

    folder = plant.workspace / "evaluations" / "all"
    assert json.loads((folder / "summary.json").read_text()) == summary.to_dict()
    scores = pq.read_table(folder / "scores.parquet")
    assert scores.schema.equals(LABELLED)
    assert scores.num_rows == 24
    assert scores["map_height"].to_pylist() == [64] * 24
    metrics = pq.read_table(folder / "metrics.parquet")
    assert metrics.schema.equals(schema.METRICS)
    aupro = metrics.filter((pc.field("metric") == "aupro") & (pc.field("category") == "ring"))
    assert aupro["defect"].to_pylist() == [None, "scratch", "spot", "mean"]
    assert pc.all(pc.less_equal(aupro["low"], aupro["high"])).as_py()


@pytest.mark.parametrize("share", [0.01, 0.9])
def test_images_that_cannot_be_scored_are_a_reason_and_beyond_their_share_a_partial_run(
    plant, tmp_path, share
):
    root = Path(shutil.copytree(plant.root, tmp_path / "parts"))
    for path in sorted((root / "plate" / "test").rglob("*.png"))[1:11]:
        path.write_bytes(b"no image")
    found = config(plant, f"unreadable-{share}", "plate", "ring", max_error_share=share)
    summary = evaluate.run(found.with_values({"data.root": str(root)}), HERE)
    assert (summary.exit_code, summary.state) == ((3, "partial") if share < 0.5 else (0, "done"))
    assert (summary.counts["images"], summary.counts["errors"]) == (24, 10)
    (reason,) = summary.reasons
    assert reason.startswith(
        "category plate: 10 of 12 images cannot be scored and are in no figure"
    )


def test_files_of_macos_are_passed_over_by_name_and_said(plant, tmp_path):
    root = Path(shutil.copytree(plant.root, tmp_path / "parts"))
    for path in sorted((root / "plate" / "test").rglob("*.png")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    found = config(plant, "macos", "plate").with_values({"data.root": str(root)})
    summary = evaluate.run(found, HERE)
    assert (summary.exit_code, summary.counts["images"], summary.counts["errors"]) == (0, 12, 0)
    (reason,) = summary.reasons
    assert reason.startswith("category plate: 12 files are hidden, or of a system, and not used")


def test_a_mask_that_cannot_be_used_is_named_in_summary_record_and_page(plant, tmp_path):
    root = Path(shutil.copytree(plant.root, tmp_path / "parts"))
    mask = next((root / "plate" / "ground_truth" / "spot").iterdir())
    mask.write_bytes(b"no image")
    found = config(plant, "masks", "plate").with_values({"data.root": str(root)})
    summary = evaluate.run(found, HERE)
    assert summary.exit_code == 0
    (reason,) = summary.reasons
    assert reason.startswith("category plate: left out of the pixel figures, ")
    assert mask.name in reason
    folder = plant.workspace / "evaluations" / "masks"
    assert (
        mask.name
        in json.loads((folder / "evaluation.json").read_text())["categories"]["plate"]["left_out"][
            0
        ]
    )
    assert mask.name in (folder / "report.html").read_text()


def test_a_category_whose_name_cannot_be_in_a_path_fails_by_name(plant, tmp_path):
    root = Path(shutil.copytree(plant.root, tmp_path / "parts"))
    (root / "broken").rename(root / "bro ken")
    found = config(plant, "names").with_values({"data.root": str(root)})
    summary = evaluate.run(found, HERE)
    assert (summary.exit_code, summary.counts["failed"]) == (3, 1)
    assert summary.counts["categories"] == 3
    assert summary.reasons[0].startswith("category bro ken: category 'bro ken' is not a name")


def test_the_page_reads_what_an_evaluation_stores(plant):
    evaluate.run(config(plant, "page"), HERE)
    page = load_page_data(str(plant.workspace / "evaluations" / "page"))
    by_name = {category.name: category for category in page.categories}
    assert by_name["broken"].failure
    assert by_name["plate"].scored.num_rows == 12
    assert by_name["plate"].highest[0].anomaly_map.shape == (64, 64)


def test_categories_can_be_chosen_and_failures_allowed(plant):
    assert evaluate.run(config(plant, "one", "plate"), HERE).exit_code == 0
    values = {"max_failed_share": 0.5}
    assert evaluate.run(config(plant, "most", "plate", "broken", **values), HERE).exit_code == 0


def test_images_of_parts_that_training_saw_are_named_with_their_twins(plant, tmp_path):
    root = Path(shutil.copytree(plant.root, tmp_path / "parts"))
    good = root / "plate" / "test" / "good"
    shutil.copy(root / "plate" / "train" / "good" / "003.png", good / "again.png")
    found = config(plant, "leaks", "plate", "ring", check_leaks=True)
    summary = evaluate.run(found.with_values({"data.root": str(root)}), HERE)
    assert (summary.exit_code, summary.counts["leaks"]) == (0, 1)
    (reason,) = summary.reasons
    assert reason.startswith("category plate: 1 of its images shows a part that training saw")

    folder = plant.workspace / "evaluations" / "leaks"
    (row,) = pq.read_table(folder / "leaks.parquet").to_pylist()
    assert row["image_uri"].endswith("test/good/again.png")
    assert row["training_uri"].endswith("train/good/003.png")
    plate, ring = load_page_data(str(folder)).categories
    assert (plate.num_leaks, ring.num_leaks) == (1, 0)
    assert (plate.leaks[0]["pixels"] == plate.leaks[0]["training_pixels"]).all()
    html = (folder / "report.html").read_text()
    assert "Parts that training saw" in html
    assert "No image was found that shows a part that training saw" in html


def test_a_workspace_without_models_is_refused(plant, tmp_path):
    with pytest.raises(ConfigError, match="no model exists in workspace"):
        evaluate.run(config(plant, "none", workspace=str(tmp_path)), HERE)
    assert not list(tmp_path.iterdir())


def test_an_evaluation_of_champions_that_is_stopped_leaves_a_summary(plant):
    folder = plant.workspace / "evaluations" / "stopped"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text('{"state": "done"}')

    class Stopped(InProcess):
        def run_each(self, *arguments, **options):
            assert not (folder / "summary.json").exists()
            signal.raise_signal(signal.SIGINT)
            return super().run_each(*arguments, **options)

    with pytest.raises(StoppedError, match="the evaluation was stopped"):
        evaluate.run(config(plant, "stopped"), Stopped())
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["exit_code"], summary["state"]) == (1, "failed")
    assert summary["reasons"] == ["the evaluation was stopped: start it again to go on"]
