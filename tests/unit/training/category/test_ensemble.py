"""A category whose model is a student beside cell Gaussians, or cells alone."""

import re
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from mrkd import storage
from mrkd.data import datasets
from mrkd.data.preprocess import Preprocessor, decode_samples
from mrkd.model import artefact
from mrkd.model.artefact import save_load
from mrkd.model.ensemble import Ensemble
from mrkd.model.inference import score_images
from mrkd.storage import schema
from mrkd.training.category import TrialHook, train_category
from tests.support.models import small_config
from tests.support.parts import make_parts

BOTH = {"model.cells": True, "train.min_images_for_student": 16, "train.max_steps": 8}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return make_parts(tmp_path_factory.mktemp("parts"), categories=1, train=32)


def train(parts, workspace, *, count=32, group=lambda n: None, probe=None, call=None, **values):
    config = small_config(str(parts), str(workspace), **{**BOTH, **values})
    samples = datasets.load(config.data)["plate"]
    good = [sample for sample in samples if sample.split == "train"][:count]
    good = [replace(sample, group=group(n)) for n, sample in enumerate(good)]
    rest = [sample for sample in samples if sample.split != "train"]
    return train_category(config, "plate", good + rest, probe=probe, **(call or {}))


def scores(workspace, result):
    folder = artefact.folder_of(str(workspace), "plate", result.version)
    rows = schema.from_parquet(storage.read(storage.join(folder, "training_scores.parquet")))
    return rows.to_pylist()


def count_of(rows, value, column="sha256"):
    return sum(row[column] == value for row in rows)


def card(workspace, result):
    return artefact.read_card(str(workspace), "plate", result.version)


@pytest.fixture(scope="module")
def both(parts, tmp_path_factory):
    workspace = tmp_path_factory.mktemp("both")
    return workspace, train(parts, workspace)


def test_all_good_images_calibrate_each_by_what_did_not_know_it(both):
    workspace, result = both
    loaded = save_load.load(str(workspace), "plate", result.version)
    assert isinstance(loaded.model, Ensemble)
    assert loaded.model.student is not None
    assert len(loaded.calibration.scores) == loaded.calibration.num_groups == 32
    rows = scores(workspace, result)
    assert {row["fold"] for row in rows} == set(range(8))
    assert sorted(row["image_score"] for row in rows) == pytest.approx(
        list(loaded.calibration.scores)
    )
    # The model itself knows them all: it finds them less odd than did those that lacked them.
    good = [datasets.Sample(row["image_uri"], "plate", "train", 0, "good") for row in rows]
    known = score_images(
        loaded.model, decode_samples(good, Preprocessor.of(loaded.card.model)), map_size=None
    )
    assert np.mean([one.image_score for one in known]) < np.mean(loaded.calibration.scores)


def test_an_undisturbed_training_and_one_that_was_killed_store_the_same_model(
    both, parts, tmp_path
):
    def killed(row):
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    checkpoints = {"checkpoints_uri": str(tmp_path / "checkpoints")}
    often = {"fleet.checkpoint_s": 0.0}
    with pytest.raises(KeyboardInterrupt):
        train(parts, tmp_path, call={**checkpoints, "report": killed}, **often)
    rows = []
    again = train(parts, tmp_path, call={**checkpoints, "report": rows.append}, **often)
    assert rows[0]["epoch"] == 1
    workspace, undisturbed = both
    assert again.version == undisturbed.version
    assert card(tmp_path, again).weights_digest == card(workspace, undisturbed).weights_digest
    assert card(tmp_path, again).files == card(workspace, undisturbed).files


def test_too_few_images_for_a_student_are_said_in_log_result_and_card(parts, tmp_path, caplog):
    caplog.set_level("INFO", "mrkd.training.category.train")
    result = train(parts, tmp_path, count=12)
    why = "12 good images, fewer than train.min_images_for_student (16)"
    assert result.no_student == why
    assert why in caplog.text
    assert card(tmp_path, result).data["no_student"] == why
    assert not card(tmp_path, result).model.student
    assert (result.steps, result.num_images["calibration"]) == (0, 12)
    # As it stands it says so again.
    assert train(parts, tmp_path, count=12).no_student == why


@pytest.mark.parametrize("count", [4, 8, 16])
def test_a_handful_of_images_makes_a_model_that_says_what_it_supports(parts, tmp_path, count):
    result = train(parts, tmp_path, count=count, **{"train.min_images_for_student": 100})
    assert result.supported_false_call_rate == pytest.approx(1 / (count + 1))
    assert any(f"{count} good images vouch for" in text for text in result.warnings)
    rows = scores(tmp_path, result)
    assert len({row["fold"] for row in rows}) == min(count, 8)
    assert not any(row["is_anomalous"] for row in rows)


def test_groups_are_held_out_whole_and_counted(parts, tmp_path):
    result = train(parts, tmp_path, group=lambda n: f"run-{n // 8}")
    rows = scores(tmp_path, result)
    assert len({(row["group"], row["fold"]) for row in rows}) == 4
    assert result.supported_false_call_rate == pytest.approx(1 / 5)
    assert result.no_student.startswith("4 groups of good images, fewer than 16")
    assert card(tmp_path, result).data["groups"] == "given"
    assert any("in 4 groups vouch for" in text for text in result.warnings)


@pytest.mark.parametrize("apart", [True, False])
def test_a_group_that_lies_apart_is_warned_of(parts, tmp_path, apart):
    own = shutil.copytree(parts, tmp_path / "parts")
    if apart:  # the first run shows its parts as negatives
        for path in sorted((own / "plate" / "train" / "good").iterdir())[:8]:
            cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
    result = train(own, tmp_path / "w", group=lambda n: f"run-{n // 8}")
    told = re.findall(r"held out by groups, (\d+)% lie above", "; ".join(result.warnings))
    assert [int(share) >= 15 for share in told] == [True] * apart


def test_copies_are_one_group(parts, tmp_path):
    own = shutil.copytree(parts, tmp_path / "parts")
    folder = own / "plate" / "train" / "good"
    for n in range(4):
        shutil.copy(folder / "000.png", folder / f"copy-{n}.png")
    result = train(own, tmp_path / "w", count=36)
    rows = scores(tmp_path / "w", result)
    (copied,) = {sha for sha in (r["sha256"] for r in rows) if count_of(rows, sha) == 5}
    (group,) = {row["group"] for row in rows if row["sha256"] == copied}
    assert count_of(rows, group, "group") == 5
    assert len({row["group"] for row in rows}) == 32


def test_a_trial_judges_what_its_cells_do_not_know(parts, tmp_path):
    seen = {}

    def marks(model, samples, threshold):
        seen["images"] = len(samples)
        return {"objective": threshold}

    asking = TrialHook(marks, lambda epochs: True)
    result = train(parts, tmp_path, probe=asking)
    loaded = save_load.load(str(tmp_path), "plate", result.version)
    assert isinstance(loaded.model, Ensemble)
    rows = scores(tmp_path, result)
    assert {row["side"] for row in rows} == {"validation", "calibration"}
    count = int(loaded.model.grid("middle").count)
    assert count == result.num_images["train"]
    assert seen["images"] == result.num_images["validation"]
