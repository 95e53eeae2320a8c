"""A workspace that commit 1cb8727 wrote, before models were ensembles: read and scored as then.

`tests/assets/workspace_1cb8727.tar.gz` holds it with the eight images of its night: a fleet of one
category (`default` of then, a student alone), a night and an evaluation.
"""

import shutil
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mrkd import cli
from mrkd.config import PoolConfig, RowsConfig, TrainConfig
from mrkd.data.datasets import Sample
from mrkd.data.preprocess import Preprocessor
from mrkd.model import artefact
from mrkd.model.artefact import save_load
from mrkd.model.ensemble import Ensemble
from mrkd.model.inference import Scorer
from mrkd.model.mrkd import MRKD
from mrkd.model.registry import promotions
from mrkd.reports import write_page
from mrkd.training.category import train_category

ASSET = Path(__file__).parents[1] / "assets" / "workspace_1cb8727.tar.gz"
MADE_IN = "file:///tmp/fixture"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folder of the workspace and the archive."""
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(ASSET) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def night(place):
    """Rows of its night, in the order of their images."""
    (shard,) = (place / "workspace" / "nights" / "night-1" / "scores").rglob("*.parquet")
    return sorted(pq.ParquetFile(shard).read().to_pylist(), key=lambda row: row["image_uri"])


def champion(workspace):
    promotion = promotions.champion(str(workspace), "plate")
    assert promotion is not None
    return promotion


def test_its_model_is_a_student_alone_with_the_calibration_it_had(place):
    workspace = place / "workspace"
    loaded = save_load.load(str(workspace), "plate", champion(workspace).version)
    assert isinstance(loaded.model, MRKD)
    assert not loaded.card.model.cells
    stored = artefact.read_calibration(str(workspace), "plate", loaded.card.version, 1)
    # Each of its images stood for itself.
    assert stored.num_groups == len(stored.scores) == 11
    assert stored.supported_false_call_rate == pytest.approx(1 / 12)
    assert stored.warning.startswith("11 good images vouch for a false-call rate of 8.33%")


def test_its_images_are_scored_as_before(place, night):
    workspace = place / "workspace"
    version = champion(workspace).version
    card = artefact.read_card(str(workspace), "plate", version)
    decoder = Preprocessor.of(card.model)
    files = [place / row["image_uri"].removeprefix(f"{MADE_IN}/") for row in night]
    decoded = [decoder(file.as_uri(), file.read_bytes()) for file in files]
    scorer = Scorer(str(workspace), PoolConfig(batch_size=4, device="cpu", precision="float32"))
    rows = scorer.score(decoded, category="plate", version=version, rows=RowsConfig())
    kinds = [row["error_kind"] for row in night]
    assert [row.get("error_kind") for row in rows] == kinds
    assert sorted(map(str, kinds)) == ["None"] * 8 + ["decode"]
    for now, then in zip(rows, night, strict=True):
        if then["error_kind"]:
            continue
        assert now["image_score"] == pytest.approx(then["image_score"], rel=1e-5)
        assert now["map_max"] == pytest.approx(then["map_max"], rel=1e-5)
        for column in ("threshold", "is_anomalous", "p_value", "map_height", "model_version"):
            assert now[column] == then[column], column


def test_its_fleet_night_and_evaluation_still_have_pages(place):
    workspace = (place / "workspace").as_uri()
    for run, words in (
        ("fleets/fleet-1", "plate"),
        ("nights/night-1", "11 good images vouch for"),
        ("evaluations/eval-1", "Image AUROC"),
    ):
        page = write_page(f"{workspace}/{run}")
        assert words in Path(page.removeprefix("file://")).read_text()


def test_a_model_of_today_is_measured_against_it_and_takes_over(place, tmp_path):
    shutil.copytree(place / "workspace", tmp_path, dirs_exist_ok=True)
    workspace = tmp_path.as_uri()
    before = champion(tmp_path).version
    config = TrainConfig.from_dict(
        {
            "workspace": workspace,
            "run": "fleet-2",
            "data": {"root": str(place)},
            "model": {"image_size": 64, "weights": "random"},
        }
    )
    good = sorted((place / "archive" / "plate" / "line-1").glob("[0-9]*.png"))
    samples = [Sample(file.as_uri(), "plate", "train", 0, "good") for file in good]
    result = train_category(config, "plate", samples)
    assert result.gate["champion"]["version"] == before
    assert isinstance(save_load.load(workspace, "plate", result.version).model, Ensemble)


def test_its_calibration_and_night_answer_to_todays_commands(place, capsys):
    workspace = str(place / "workspace")
    assert cli.main(["models", "show", "plate", "--workspace", workspace]) == 0
    command = ["nights", "try-threshold", "night-1", "--category", "plate"]
    assert cli.main([*command, "--threshold", "0", "--workspace", workspace]) == 0
    assert "plate" in capsys.readouterr().out
