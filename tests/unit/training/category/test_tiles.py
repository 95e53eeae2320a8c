"""A category of large pictures: trained on in tiles, calibrated, evaluated and judged."""

import numpy as np
import pytest

from mrkd.config import EvalConfig
from mrkd.data import datasets, images, preprocess
from mrkd.data.preprocess import Preprocessor
from mrkd.evaluation.evaluate_model import measure_category
from mrkd.model import artefact
from mrkd.model.artefact import save_load
from mrkd.model.inference import score_images
from mrkd.storage.thread_map import in_threads
from mrkd.training.category import train_category
from mrkd.training.category.split_images import decode_good, read_good
from mrkd.training.gate.compare_models import by_labels
from tests.support.models import small_config, small_model
from tests.support.parts import make_parts
from tests.support.pixel_metrics import exact_figure
from tests.support.rivals import rival, shown


@pytest.fixture(scope="module")
def category(tmp_path_factory):
    """Config and samples of a category of pictures of 96 px, and what its training gave."""
    folder = tmp_path_factory.mktemp("category")
    root = make_parts(folder / "parts", categories=1, train=32, size=96)
    values = {"model.tiles": 64, "model.overlap": 16}
    config = small_config(str(root), str(folder / "workspace"), **values)
    samples = datasets.load(config.data)["plate"]
    return config, samples, train_category(config, "plate", samples)


@pytest.fixture(scope="module")
def good(category):
    """Its good images, read and decoded."""
    config, samples, _ = category
    found, _ = read_good([one for one in samples if one.split == "train"])
    return decode_good(found, Preprocessor.of(config.model))


def test_every_tile_of_a_good_image_has_a_name_and_a_row(good):
    numbers = range(1, len(good), 3)
    names, rows = good.names(numbers), good.squares_of(numbers)
    assert len(names) == len(set(names)) == len(rows) == 4 * len(numbers)
    for n, number in enumerate(numbers):
        image = good.decoded[number]
        np.testing.assert_array_equal(good.pixels[rows[4 * n : 4 * n + 4]], image.pixels)
        np.testing.assert_array_equal(good.squares(number), image.pixels)
        assert np.shares_memory(image.pixels, good.pixels)
    assert good.for_squares(np.arange(len(good))).tolist() == sorted([*range(len(good))] * 4)


def test_tiles_that_wait_on_disk_are_those_of_the_image(category, good):
    decoder = Preprocessor.of(category[0].model)
    for one, image in zip(good.good[::7], good.decoded[::7], strict=True):
        again = decoder("a", datasets.read_image(one.sample))
        np.testing.assert_array_equal(image.pixels, again.pixels)
        assert (image.geometry, image.statistics) == (again.geometry, again.statistics)


def test_a_training_in_tiles_counts_images_and_calibrates_on_their_canvases(category, good):
    config, _, result = category
    assert sum(result.num_images.values()) == len(good)
    assert result.resize == "stretch"
    loaded = save_load.load(config.workspace, "plate", result.version)
    assert (loaded.card.model.tiles, loaded.card.model.overlap) == (64, 16)
    sides = artefact.read_sides(config.workspace, "plate", result.version)
    own = [n for n, digest in enumerate(good.digests) if sides[digest] == "calibration"]
    held_out = list(score_images(loaded.model, [good.decoded[n] for n in own]))
    assert list(loaded.calibration.scores) == sorted(one.image_score for one in held_out)
    assert list(loaded.calibration.pixel_maxima) == sorted(one.peak for one in held_out)


def test_flips_of_tiles_are_trained_on(category, tmp_path):
    config, samples, _ = category
    values = {"train.augment": "flips", "workspace": str(tmp_path), "train.max_steps": 2}
    assert train_category(config.with_values(values), "plate", samples).steps == 2


def test_large_pictures_are_evaluated_and_judged_as_they_are_scored(category):
    config, samples, result = category
    model = save_load.load(config.workspace, "plate", result.version).model
    test = [sample for sample in samples if sample.split == "test"]
    scored = list(
        score_images(model, preprocess.decode_samples(test, Preprocessor.of(config.model)))
    )

    evaluated = EvalConfig(config.workspace, "test", config.data, resamples=0)
    measured = measure_category(evaluated, "plate", samples)
    scores = [one.image_score for one in scored]
    assert measured.scores["image_score"].to_pylist() == scores
    assert set(measured.scores["map_height"].to_pylist()) == {64}
    assert measured.model["resize"] == "stretch"

    uris = [sample.gt_mask_uri for sample in test]
    masks = [uri and images.to_mask(images.decode(datasets.read_image(uri))) for uri in uris]
    exact = exact_figure("pixel_auroc", [one.anomaly_map for one in scored], masks)
    (found,) = [
        row["value"]
        for row in measured.metrics.to_pylist()
        if (row["metric"], row["defect"]) == ("pixel_auroc", None)
    ]
    assert found == pytest.approx(exact.value, abs=1e-3)

    trial = by_labels([shown(rival(model))], samples, 500)
    assert sorted(trial.scores[0]) == sorted(scores)


def test_a_model_with_tiles_and_one_without_are_shown_the_same_pictures(category):
    _, samples, _ = category
    rivals = [shown(rival(small_model(tiles=64, overlap=16))), shown(rival(small_model()))]
    trial = by_labels(rivals, samples, 4)
    alone = [by_labels([one], samples, 4).scores[0] for one in rivals]
    np.testing.assert_array_equal(trial.scores, alone)
    assert (trial.scores[0] != trial.scores[1]).any()


def test_no_more_than_a_few_large_pictures_wait_in_memory():
    begun = []

    def begin(item):
        begun.append(item)
        return item

    found = in_threads(begin, range(40), ahead=4)
    for n in range(40):
        assert next(found) == n
        assert len(begun) <= n + 4
