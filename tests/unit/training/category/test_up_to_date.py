"""What makes a category up to date, told without reading an image."""

import os
import shutil

import cv2
import numpy as np
import pytest

from mrkd.data import datasets
from mrkd.errors import ConfigError
from mrkd.training.category import inputs_of_all, standing, train_category
from tests.support.models import small_config
from tests.support.parts import make_parts


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return make_parts(tmp_path_factory.mktemp("parts"), 2)


@pytest.fixture
def own(parts, tmp_path):
    return shutil.copytree(parts, tmp_path / "parts")


def inputs(root, workspace, **values):
    config = small_config(str(root), str(workspace), **values)
    samples = datasets.load(config.data)
    return inputs_of_all(config.for_categories(list(samples)), samples)


def changed(before, after):
    return {name for name in before if before[name] != after.get(name)}


def test_the_same_files_and_config_have_the_same_inputs(own, tmp_path):
    assert inputs(own, tmp_path / "a") == inputs(own, tmp_path / "b")


def test_an_image_added_removed_or_touched_changes_its_category_alone(own, tmp_path):
    before = inputs(own, tmp_path)
    good = own / "plate" / "train" / "good"
    shutil.copy(good / "000.png", good / "new.png")
    added = inputs(own, tmp_path)
    assert changed(before, added) == {"plate"}
    (good / "001.png").unlink()
    removed = inputs(own, tmp_path)
    assert changed(added, removed) == {"plate"}
    os.utime(good / "002.png", ns=(1, 1))
    assert changed(removed, inputs(own, tmp_path)) == {"plate"}


def test_an_excluded_image_changes_its_category_alone(own, tmp_path):
    values = {"data.exclude": ["plate/train/good/003.png"]}
    assert changed(inputs(own, tmp_path), inputs(own, tmp_path, **values)) == {"plate"}


def test_a_test_image_changes_nothing(own, tmp_path):
    before = inputs(own, tmp_path)
    next((own / "plate" / "test" / "good").iterdir()).unlink()
    assert inputs(own, tmp_path) == before


@pytest.mark.parametrize(
    "values",
    [
        {"train.learning_rate": 1e-4},
        {"model.image_size": 96},
        {"train.seed": 7},  # another random teacher, too
        {"train.micro_batch_size": 2},
    ],
)
def test_a_value_of_the_config_changes_every_category(own, tmp_path, values):
    before, after = inputs(own, tmp_path), inputs(own, tmp_path, **values)
    assert changed(before, after) == {"plate", "ring"}


def test_a_value_for_one_category_changes_that_one(own, tmp_path):
    values = {"category": {"ri*": {"train": {"learning_rate": 1e-4}}}}
    assert changed(inputs(own, tmp_path), inputs(own, tmp_path, **values)) == {"ring"}


def test_where_and_how_fast_it_runs_changes_nothing(own, tmp_path):
    values = {"train.device": "auto", "train.cache_bytes": 1, "fleet.cpus_per_worker": 2.0}
    assert inputs(own, tmp_path) == inputs(own, tmp_path, **values)


def test_a_region_of_interest_drawn_anew_changes_its_category(own, tmp_path):
    mask = tmp_path / "roi.png"
    cv2.imwrite(str(mask), np.full((96, 96), 255, np.uint8))
    values = {"category": {"plate": {"roi": {"mask": str(mask)}}}}
    before = inputs(own, tmp_path)
    drawn = inputs(own, tmp_path, **values)
    assert changed(before, drawn) == {"plate"}
    cv2.imwrite(str(mask), np.pad(np.full((48, 96), 255, np.uint8), ((0, 48), (0, 0))))
    assert changed(drawn, inputs(own, tmp_path, **values)) == {"plate"}
    mask.unlink()
    with pytest.raises(ConfigError, match=r"roi\.png"):
        inputs(own, tmp_path, **values)


def test_a_trained_category_stands_until_its_version_is_deleted(own, tmp_path):
    config = small_config(str(own), str(tmp_path / "w"))
    samples = datasets.load(config.data)
    found = inputs_of_all(config.for_categories(list(samples)), samples)
    assert standing(config.workspace, "plate", found["plate"]) is None
    result = train_category(config, "plate", samples["plate"])
    again = standing(config.workspace, "plate", found["plate"])
    assert (again.status, again.version) == ("up_to_date", result.version)
    assert (again.gate, again.num_images) == (result.gate, result.num_images)
    assert again.seconds == {}
    assert standing(config.workspace, "plate", found["ring"]) is None
    shutil.rmtree(tmp_path / "w" / "models" / "plate" / result.version)
    assert standing(config.workspace, "plate", found["plate"]) is None
