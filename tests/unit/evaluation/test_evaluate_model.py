import dataclasses
import re
from pathlib import Path

import cv2
import numpy as np
import pyarrow.compute as pc
import pytest

from mrkd.config import DataConfig, EvalConfig
from mrkd.data import datasets
from mrkd.errors import CategoryError
from mrkd.evaluation.category_metrics import LEFT_OUT
from mrkd.evaluation.evaluate_model import LABELLED, measure_category
from mrkd.storage import schema
from mrkd.training.category import train_category
from tests.support.models import MODEL, small_config
from tests.support.parts import make_parts


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An evaluation's config and the samples of a category that has a model."""
    folder = tmp_path_factory.mktemp("labelled")
    root = make_parts(folder / "parts", categories=1)
    fleet = small_config(str(root), str(folder / "workspace"))
    samples = datasets.load(fleet.data)["plate"]
    train_category(fleet, "plate", samples)
    data = DataConfig(str(root))
    return EvalConfig(str(folder / "workspace"), "test", data, resamples=20), samples


def with_mask(samples, path, gt_mask):
    """The samples, whose first defective one has that mask."""
    assert cv2.imwrite(str(path), gt_mask)
    first = next(n for n, sample in enumerate(samples) if sample.gt_mask_uri)
    changed = dataclasses.replace(samples[first], gt_mask_uri=str(path))
    return [*samples[:first], changed, *samples[first + 1 :]]


def test_every_image_has_its_row_and_labels_and_the_category_its_metrics(trained):
    config, samples = trained
    measured = measure_category(config, "plate", samples)
    test = [sample for sample in samples if sample.split == "test"]
    assert measured.scores.schema.equals(LABELLED)
    assert measured.scores["image_uri"].to_pylist() == [sample.image_uri for sample in test]
    assert measured.scores["gt_label"].to_pylist() == [sample.gt_label for sample in test]
    assert measured.metrics.schema.equals(schema.FIGURES)
    assert {"image_auroc", "pixel_auroc", "aupro"} <= set(measured.metrics["metric"].to_pylist())
    assert measured.model["image_size"] == MODEL.image_size
    assert measured.model["teacher"].startswith("random:")


def test_an_unreadable_image_is_an_error_row_and_in_no_metric(trained, tmp_path):
    config, samples = trained
    empty = tmp_path / "empty.png"
    empty.touch()
    bad = datasets.Sample(str(empty), "plate", "test", 0, "good")
    with_bad = measure_category(config, "plate", [bad, *samples])
    assert with_bad.scores["error_kind"][0].as_py() == "empty"
    assert with_bad.metrics.equals(measure_category(config, "plate", samples).metrics)


def test_part_all_is_val_and_test_and_never_what_was_trained_on(trained):
    config, samples = trained
    moved = [
        dataclasses.replace(sample, split="val") if n % 2 and sample.split == "test" else sample
        for n, sample in enumerate(samples)
    ]
    sizes = {
        part: measure_category(config.with_values({"part": part}), "plate", moved).scores.num_rows
        for part in ("val", "test", "all")
    }
    assert sizes == {"val": 6, "test": 6, "all": 12}


def test_a_mask_with_any_value_but_0_marks_a_defect(trained, tmp_path):
    config, samples = trained
    path = next(sample.gt_mask_uri for sample in samples if sample.gt_mask_uri)
    gt_mask = cv2.imread(path.removeprefix("file://"), cv2.IMREAD_GRAYSCALE)
    faint = with_mask(samples, tmp_path / "faint.png", np.minimum(gt_mask, 1))
    expected = measure_category(config, "plate", samples).metrics
    assert measure_category(config, "plate", faint).metrics.equals(expected)


def left_out(measured):
    rows = measured.metrics.filter(pc.field("metric") == LEFT_OUT).to_pylist()
    return {row["defect"]: row["value"] for row in rows}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.full((32, 64), 255, np.uint8), r"other\.png.*\(32, 64\).*\(64, 64\)"),
        (b"no image", r"other\.png' cannot be read"),
        (b"", r"other\.png' cannot be read"),
        (np.zeros((64, 64), np.uint8), r"it is defective, and its gt_mask .* marks nothing"),
        (None, r"other\.png' cannot be read: .* is not there"),
    ],
)
def test_an_image_with_an_unusable_mask_is_left_out_of_the_pixel_figures_by_name(
    trained, tmp_path, content, words
):
    config, samples = trained
    path = tmp_path / "other.png"
    other = with_mask(samples, path, np.zeros((64, 64), np.uint8))
    if content is None:
        path.unlink()
    else:
        is_array = isinstance(content, np.ndarray)
        path.write_bytes(cv2.imencode(".png", content)[1].tobytes() if is_array else content)
    measured, before = (measure_category(config, "plate", some) for some in (other, samples))
    (line,) = measured.left_out
    first = next(sample for sample in samples if sample.gt_mask_uri)
    assert line.startswith(f"{first.image_uri}: ")
    assert re.search(words, line)
    assert left_out(measured) == {first.defect: 1}
    images = pc.field("metric") == "image_auroc"
    assert measured.metrics.filter(images).equals(before.metrics.filter(images))
    assert "aupro" in measured.metrics["metric"].to_pylist()


def test_a_good_image_whose_mask_marks_a_defect_is_left_out_of_the_pixel_figures(trained, tmp_path):
    config, samples = trained
    n = next(n for n, one in enumerate(samples) if one.split == "test" and not one.gt_label)
    paths = {True: tmp_path / "marked.png", False: tmp_path / "empty.png"}
    for is_marked, path in paths.items():
        assert cv2.imwrite(str(path), np.full((64, 64), 255 * is_marked, np.uint8))
        own = dataclasses.replace(samples[n], gt_mask_uri=str(path))
        measured = measure_category(config, "plate", [*samples[:n], own, *samples[n + 1 :]])
        assert left_out(measured) == ({"good": 1} if is_marked else {})
        assert ["marked.png' marks a defect" in line for line in measured.left_out] == (
            [True] * is_marked
        )


def test_a_kind_of_defect_without_a_usable_mask_has_a_row_that_says_so(trained, tmp_path):
    config, samples = trained
    lost = [
        dataclasses.replace(one, gt_mask_uri=str(tmp_path / "gone.png"))
        if one.defect == "spot"
        else one
        for one in samples
    ]
    rows = measure_category(config, "plate", lost).metrics.to_pylist()
    (spot,) = [row for row in rows if (row["metric"], row["defect"]) == ("aupro", "spot")]
    assert spot["value"] is None
    assert spot["reason"]


def test_a_category_without_model_image_or_readable_image_fails_with_the_reason(trained, tmp_path):
    config, samples = trained
    with pytest.raises(CategoryError, match="no model"):
        measure_category(config, "ring", samples)
    with pytest.raises(CategoryError, match="no image in part 'val'"):
        measure_category(config.with_values({"part": "val"}), "plate", samples)
    gone = datasets.Sample(str(Path(tmp_path) / "gone.png"), "plate", "test", 0, "good")
    with pytest.raises(CategoryError, match=r"none of its 1 images can be scored.*gone\.png"):
        measure_category(config, "plate", [gone])
