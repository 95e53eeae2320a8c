import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from mrkd import storage
from mrkd.config import PoolConfig, RowsConfig
from mrkd.data import datasets, preprocess
from mrkd.errors import CategoryError, StorageError, TeacherError
from mrkd.model import artefact, device, inference
from mrkd.model.artefact import save_load
from mrkd.model.registry import promotions
from mrkd.storage import schema
from mrkd.training.category import train_category
from mrkd.training.category.warnings import check_converged
from mrkd.training.fit import FitResult
from tests.support.models import small_config
from tests.support.parts import make_parts


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return make_parts(tmp_path_factory.mktemp("parts"), categories=1, train=32)


@pytest.fixture
def own_parts(parts, tmp_path):
    """A copy that the test may change."""
    return shutil.copytree(parts, tmp_path / "parts")


def train(root, workspace, report=None, **values):
    config = small_config(str(root), str(workspace), **values)
    samples = datasets.load(config.data)["plate"]
    return train_category(config, "plate", samples, report=report)


@pytest.fixture(scope="module")
def trained(parts, tmp_path_factory):
    workspace = tmp_path_factory.mktemp("workspace")
    rows = []
    return workspace, train(parts, workspace, rows.append), rows


def read_table(workspace, version, name):
    folder = artefact.folder_of(str(workspace), "plate", version)
    return schema.from_parquet(storage.read(storage.join(folder, name)))


def tree(workspace):
    return {entry.uri: entry.etag for entry in storage.list_files(str(workspace))}


def test_a_category_is_trained_calibrated_and_promoted_first(trained):
    workspace, result, rows = trained
    champion = promotions.champion(str(workspace), "plate")
    assert (result.status, champion.version, champion.why) == ("trained", result.version, "first")
    assert champion.by == "train test"
    loaded = save_load.load(str(workspace), "plate", result.version)
    assert result.threshold == loaded.calibration.threshold
    assert result.num_images == loaded.card.data["num_images"]
    assert sum(result.num_images.values()) == 32
    assert len(loaded.calibration.scores) == result.num_images["calibration"]
    assert result.images_per_s > 0
    assert set(result.seconds) == {
        "read", "teacher", "decode", "features", "fit", "calibrate", "save", "gate",
    }  # fmt: skip
    history = storage.read(
        storage.join(artefact.folder_of(str(workspace), "plate", result.version), "history.parquet")
    )
    assert schema.from_parquet(history)["epoch"].to_pylist() == [row["epoch"] for row in rows]


def test_what_a_person_should_know_is_a_warning(trained):
    _, result, _ = trained
    assert any("vouch for a false-call rate of" in text for text in result.warnings)
    assert any("weights are random" in text for text in result.warnings)
    assert result.to_dict()["warnings"] == result.warnings


def test_a_night_scores_the_held_out_images_as_the_calibration_did(trained, parts):
    workspace, result, _ = trained
    config = small_config(str(parts), str(workspace))
    samples = [s for s in datasets.load(config.data)["plate"] if s.split == "train"]
    images = list(preprocess.decode_samples(samples, preprocess.Preprocessor(64, "stretch")))
    scorer = inference.Scorer(str(workspace), PoolConfig(device="cpu"))
    rows = scorer.score(images, category="plate", version=result.version, rows=RowsConfig())
    scored = {row["image_uri"]: row["image_score"] for row in rows}
    calibration = artefact.read_calibration(str(workspace), "plate", result.version, 1)
    stored = read_table(workspace, result.version, "training_scores.parquet").to_pylist()
    assert {row["image_uri"]: row["image_score"] for row in stored} == scored
    held_out = sorted(scored[r["image_uri"]] for r in stored if r["side"] == "calibration")
    assert tuple(held_out) == calibration.scores


def test_the_same_inputs_are_up_to_date_and_nothing_is_written(trained, parts):
    workspace, first, rows = trained
    before, num_rows = tree(workspace), len(rows)
    again = train(parts, workspace, rows.append)
    assert (again.status, again.version) == ("up_to_date", first.version)
    assert (again.threshold, again.images_per_s) == (first.threshold, None)
    assert tree(workspace) == before
    assert len(rows) == num_rows


def test_two_runs_give_the_same_weights_on_another_place_and_under_other_names(
    trained, own_parts, tmp_path
):
    workspace, first, _ = trained
    good = own_parts / "plate" / "train" / "good"
    for n, path in enumerate(sorted(good.iterdir(), reverse=True)):
        path.rename(good / f"renamed{n}.png")
    second = train(own_parts, tmp_path / "other")
    cards = [
        artefact.read_card(str(place), "plate", result.version)
        for place, result in ((workspace, first), (tmp_path / "other", second))
    ]
    assert second.version == first.version
    assert cards[0].weights_digest == cards[1].weights_digest
    assert cards[0].metrics == cards[1].metrics


def test_new_images_move_few_others_and_give_a_new_version(trained, own_parts, tmp_path):
    workspace, first, _ = trained
    extra = make_parts(tmp_path / "extra", categories=2, train=3) / "ring" / "train" / "good"
    for path in extra.iterdir():
        shutil.copy(path, own_parts / "plate" / "train" / "good" / f"new-{path.name}")
    other = shutil.copytree(workspace, tmp_path / "workspace")
    second = train(own_parts, other)
    assert (second.status, second.version != first.version) == ("trained", True)
    judged = promotions.holds(str(other), "plate").get(second.version) or promotions.champion(
        str(other), "plate"
    )
    assert (judged.version, judged.gate) == (second.version, second.gate)
    sides = []
    for result in (first, second):
        rows = read_table(other, result.version, "training_scores.parquet").to_pylist()
        sides.append({row["sha256"]: row["side"] for row in rows})
    moved = [digest for digest, side in sides[0].items() if sides[1][digest] != side]
    assert len(moved) <= 2
    assert len(sides[1]) == len(sides[0]) + 3


def test_an_excluded_image_gives_a_new_version(trained, parts, tmp_path):
    _, first, _ = trained
    values = {"data.exclude": ["good/003.png"]}
    second = train(parts, tmp_path / "w", **values)
    assert second.version != first.version
    assert sum(second.num_images.values()) == 31


def test_force_trains_again_beside_the_version_that_stands(trained, parts, tmp_path):
    workspace, first, _ = trained
    other = shutil.copytree(workspace, tmp_path / "workspace")
    forced = train(parts, other, **{"fleet.force": True})
    assert (forced.status, forced.version) == ("trained", f"{first.version}-2")
    assert promotions.champion(str(other), "plate").version == forced.version
    cards = [artefact.read_card(str(other), "plate", r.version) for r in (first, forced)]
    assert cards[0].weights_digest == cards[1].weights_digest
    assert train(parts, other).status == "up_to_date"
    assert promotions.champion(str(other), "plate").version == forced.version


def test_a_version_that_was_saved_but_not_promoted_is_promoted_by_the_next_start(
    trained, parts, tmp_path
):
    workspace, first, _ = trained
    other = shutil.copytree(workspace, tmp_path / "workspace")
    shutil.rmtree(other / "models" / "plate" / "promotions")
    assert train(parts, other).status == "up_to_date"
    assert promotions.champion(str(other), "plate").version == first.version


def test_a_run_that_another_of_the_same_inputs_overtook_takes_what_stands(parts, tmp_path):
    faster = []

    def overtaken(row):
        if not faster:
            faster.append(train(parts, tmp_path))

    slower = train(parts, tmp_path, overtaken)
    assert (faster[0].status, slower.status) == ("trained", "up_to_date")
    assert (slower.version, slower.threshold) == (faster[0].version, faster[0].threshold)
    (promotion,) = promotions.promotions(str(tmp_path), "plate")
    assert promotion.version == slower.version


def test_a_lost_teacher_is_stored_again_by_the_next_start(trained, parts, tmp_path):
    workspace, first, _ = trained
    other = shutil.copytree(workspace, tmp_path / "workspace")
    shutil.rmtree(other / "teachers")
    assert train(parts, other).status == "up_to_date"
    save_load.load(str(other), "plate", first.version)


def test_images_that_cannot_be_decoded_are_left_out_and_named(own_parts, tmp_path):
    good = own_parts / "plate" / "train" / "good"
    (good / "text.png").write_text("no image")
    (good / "empty.png").touch()
    result = train(own_parts, tmp_path / "w")
    assert sorted(text.rpartition("/")[2].partition(":")[0] for text in result.skipped) == [
        "empty.png", "text.png",
    ]  # fmt: skip
    assert any("2 of 34 good images cannot be decoded" in text for text in result.warnings)
    assert sum(result.num_images.values()) == 32


def test_a_category_of_text_files_fails_with_counts_and_writes_no_model(own_parts, tmp_path):
    for path in (own_parts / "plate" / "train" / "good").iterdir():
        path.write_text(f"no image {path.name}")
    with pytest.raises(
        CategoryError, match=r"0 good images, at least 4 are needed.* 32 more cannot"
    ):
        train(own_parts, tmp_path / "w")
    assert not (tmp_path / "w" / "models").exists()


def test_a_category_without_images_fails_and_writes_nothing(parts, tmp_path):
    config = small_config(str(parts), str(tmp_path / "w"))
    with pytest.raises(CategoryError, match="0 good images, at least 4"):
        train_category(config, "plate", [])
    assert not (tmp_path / "w").exists()


def test_a_category_trains_from_four_images_on(parts, tmp_path):
    config = small_config(str(parts), str(tmp_path / "w"))
    samples = [s for s in datasets.load(config.data)["plate"] if s.split == "train"]
    with pytest.raises(CategoryError, match="3 good images, at least 4 are needed"):
        train_category(config, "plate", samples[:3])
    result = train_category(config, "plate", samples[:4])
    assert result.num_images == {"train": 2, "validation": 1, "calibration": 1}
    assert any("1 good images vouch" in text for text in result.warnings)


def test_groups_stand_on_one_side_together(parts, tmp_path):
    config = small_config(str(parts), str(tmp_path / "w"))
    samples = [
        replace(sample, group=f"tile{n // 2}")
        for n, sample in enumerate(datasets.load(config.data)["plate"])
        if sample.split == "train"
    ]
    result = train_category(config, "plate", samples)
    scores = read_table(config.workspace, result.version, "training_scores.parquet")
    sides = dict(zip(*(scores[name].to_pylist() for name in ("image_uri", "side")), strict=True))
    for n in range(0, len(samples) - 1, 2):
        assert sides[samples[n].image_uri] == sides[samples[n + 1].image_uri]


def test_an_image_that_is_gone_ends_the_category_before_anything_is_written(own_parts, tmp_path):
    config = small_config(str(own_parts), str(tmp_path / "w"))
    samples = datasets.load(config.data)["plate"]
    (own_parts / "plate" / "train" / "good" / "005.png").unlink()
    with pytest.raises(StorageError, match=r"005\.png"):
        train_category(config, "plate", samples)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("name", ["loss", "validation_loss"])
def test_a_training_whose_kept_epoch_has_no_finite_loss_has_diverged(name):
    row = {"loss": 0.5, "validation_loss": 0.25} | {name: float("nan")}
    placement = device.choose("cpu", "float32")
    with pytest.raises(CategoryError, match=r"diverged: after 7 steps.*learning_rate"):
        check_converged(FitResult([row], 0, 7, 1.0, 10.0, placement, "digest"))


def test_a_teacher_that_cannot_be_had_is_named(parts, tmp_path):
    with pytest.raises(TeacherError):
        train(parts, tmp_path / "w", **{"model.weights": str(tmp_path / "no.safetensors"),
                                        "model.weights_sha256": "0" * 64})  # fmt: skip


def test_a_training_on_12_bits_in_files_of_16_says_so(own_parts, tmp_path):
    for path in (own_parts / "plate" / "train" / "good").iterdir():
        narrow = cv2.imread(str(path)).astype(np.uint16) * 16
        assert cv2.imwrite(str(path), narrow)
    result = train(own_parts, tmp_path / "w")
    (warning,) = [text for text in result.warnings if "almost black" in text]
    assert "all 32 good images" in warning
