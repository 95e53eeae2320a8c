import dataclasses

import cv2
import numpy as np
import pytest

from mrkd.config import DataConfig
from mrkd.data import datasets
from mrkd.data.datasets import Sample
from mrkd.errors import CategoryError
from mrkd.training.search import objective
from mrkd.training.search.objective import Objective
from tests.support.models import small_model
from tests.support.parts import make_parts


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    root = make_parts(tmp_path_factory.mktemp("parts"), 1, test_good=10, test_defect=10)
    return datasets.load(DataConfig(str(root)))["plate"]


@pytest.fixture(scope="module")
def good(samples):
    return [one for one in samples if one.split == "train"]


def test_labelled_images_are_cut_in_two_where_there_is_no_part_to_choose_by(samples):
    chosen, rest = objective.labelled_parts(samples)
    assert {one.gt_label for one in chosen} == {one.gt_label for one in rest} == {0, 1}
    assert [sum(one.gt_label for one in some) for some in (chosen, rest)] == [5, 5]
    assert len(chosen) == len(rest) == 10
    assert not {one.image_uri for one in chosen} & {one.image_uri for one in rest}


def test_no_group_stands_on_both_sides():
    samples = [
        Sample(f"{n}.png", "plate", "test", n % 2, "x", group=f"tile-{n // 6}") for n in range(60)
    ]
    chosen, rest = objective.labelled_parts(samples)
    assert not {one.group for one in chosen} & {one.group for one in rest}
    assert len(chosen) == len(rest) == 30


def test_the_part_to_choose_by_is_taken_where_there_is_one():
    samples = [Sample(f"{n}.png", "p", "val" if n < 4 else "test", n % 2, "x") for n in range(8)]
    chosen, rest = objective.labelled_parts(samples)
    assert [one.split for one in chosen] == ["val"] * 4
    assert [one.split for one in rest] == ["test"] * 4


@pytest.mark.parametrize("num_good", [0, 1])
def test_a_label_that_cannot_stand_on_both_sides_makes_no_part(num_good):
    samples = [Sample(f"{n}.png", "plate", "test", int(n >= num_good), "x") for n in range(20)]
    assert objective.labelled_parts(samples) == ([], [])


def test_what_is_kept_of_the_teacher_gives_the_figures_that_the_pictures_give(samples, tmp_path):
    model = small_model()
    asked = objective.ask_labelled(objective.labelled_parts(samples)[0], model, max_images=100)
    plain = Objective(asked, model).marks(model, threshold=0.5)
    kept = Objective(asked, model, folder=str(tmp_path)).marks(model, threshold=0.5)
    np.testing.assert_allclose(kept.scores, plain.scores, rtol=2e-3)
    assert kept.aupro == pytest.approx(plain.aupro, abs=0.01)
    assert len(list(tmp_path.glob("*-[0-9]"))) == 2
    assert plain.false_call_rate in (0, 1)


def test_features_that_another_process_has_put_there_are_read_and_not_computed(
    samples, tmp_path, monkeypatch
):
    model = small_model()
    asked = objective.ask_labelled(objective.labelled_parts(samples)[0], model, max_images=100)
    first = Objective(asked, model, folder=str(tmp_path)).marks(model)
    monkeypatch.setattr(type(model.teacher), "forward", None)
    assert Objective(asked, model, folder=str(tmp_path)).marks(model) == first


def test_each_good_image_is_asked_again_with_a_defect_of_each_kind(good):
    model = small_model()
    asked = objective.ask_synthetic(good[:5], model, max_images=100)
    assert asked.labels.tolist() == [0, 1, 1, 1] * 5
    assert len(set(asked.groups)) == 5
    assert all(
        mask.any() == bool(label) for mask, label in zip(asked.gt_masks, asked.labels, strict=True)
    )
    again = objective.ask_synthetic(good[:5], model, max_images=100)
    other = objective.ask_synthetic(good[:5], model, max_images=100, seed=9)
    pixels = [[one.pixels.tobytes() for one in some.decoded] for some in (asked, again, other)]
    assert pixels[0] == pixels[1] != pixels[2]


def test_no_more_images_are_asked_than_allowed(samples, good):
    model = small_model()
    chosen = objective.labelled_parts(samples)[0]
    assert sorted(objective.ask_labelled(chosen, model, max_images=2).labels.tolist()) == [
        0,
        0,
        1,
        1,
    ]
    labels = objective.ask_synthetic(good, model, max_images=6).labels
    assert (int((labels == 0).sum()), int(labels.sum())) == (6, 6)


def test_images_that_cannot_be_read_are_counted_and_one_label_alone_is_refused(samples, tmp_path):
    model = small_model()
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    bad = Sample(str(broken), "plate", "test", 1, "x")
    labelled = [one for one in samples if one.split == "test"]
    asked = objective.ask_labelled([*labelled, bad], model, max_images=100)
    assert asked.num_left_out == 1
    good = [one for one in labelled if not one.gt_label]
    with pytest.raises(CategoryError, match="all 10 images are good, and 1 cannot be read"):
        objective.ask_labelled([*good, bad], model, max_images=100)


@pytest.mark.parametrize("label", [0, 1])
def test_an_image_with_an_unusable_mask_is_measured_without_it(samples, tmp_path, label):
    model = small_model()
    mask = tmp_path / "mask.png"
    mask.write_bytes(b"no image")
    if not label:  # the mask of a good image marks a defect
        cv2.imwrite(str(mask), np.full((64, 64), 255, np.uint8))
    labelled = [one for one in samples if one.split == "test"]
    n = next(n for n, one in enumerate(labelled) if one.gt_label == label)
    own = dataclasses.replace(labelled[n], gt_mask_uri=str(mask))
    asked = objective.ask_labelled([*labelled[:n], own, *labelled[n + 1 :]], model, max_images=100)
    assert asked.num_left_out == 0
    assert sum(gt_mask is None for gt_mask in asked.gt_masks) == 1


def test_a_model_that_diverged_is_refused_by_name(samples):
    model = small_model()
    asked = objective.ask_labelled(objective.labelled_parts(samples)[0], model, max_images=2)
    with np.errstate(all="ignore"):
        for parameter in filter(lambda one: one.requires_grad, model.parameters()):
            parameter.data.fill_(float("nan"))  # the teacher is every test's
        with pytest.raises(CategoryError, match="is not finite: the training diverged"):
            Objective(asked, model).marks(model)
