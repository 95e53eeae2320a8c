from dataclasses import replace

import cv2
import numpy as np
import pytest

from mrkd.data import preprocess
from mrkd.data.datasets import Sample
from mrkd.errors import CategoryError, StorageError
from mrkd.model import inference
from mrkd.training.gate.compare_models import MIN_SHARED, by_defects, by_labels
from tests.support.models import MODEL, small_cells, small_model
from tests.support.rivals import WORSE, held_out, region, rival, shown, sides_of


def counts(trial):
    return trial.num_good, trial.num_anomalous, trial.num_left_out


def painted(path, height, width):
    assert cv2.imwrite(str(path), np.full((height, width, 3), 99, np.uint8))
    return str(path)


def test_labelled_images_are_scored_as_a_night_scores_them(parts):
    model = small_model()
    trial = by_labels([shown(rival(model))], parts, 500)
    test = [sample for sample in parts if sample.split == "test"]
    decoded = preprocess.decode_samples(
        test, preprocess.Preprocessor(MODEL.image_size, MODEL.resize)
    )
    found = zip((one.gt_label for one in test), inference.score_images(model, decoded), strict=True)
    expected = sorted((label, scored.image_score) for label, scored in found)
    assert sorted(zip(trial.labels, trial.scores[0], strict=True)) == expected
    assert counts(trial) == (6, 6, 0)


def test_labels_of_the_val_part_come_before_those_of_the_test_part(parts):
    test = [sample for sample in parts if sample.split == "test"]
    moved = [replace(one, split="val") if n % 3 == 0 else one for n, one in enumerate(test)]
    trial = by_labels([shown()], moved, 500)
    assert (trial.part, *counts(trial)) == ("val", 2, 2, 0)
    one_label = [replace(one, split="test") if one.gt_label else one for one in moved]
    trial = by_labels([shown()], one_label, 500)
    assert (trial.part, *counts(trial)) == ("test", 4, 6, 0)


def test_images_out_of_the_headline_do_not_judge(parts):
    aside = [replace(one, headline=one.defect != "spot") for one in parts]
    assert counts(by_labels([shown()], aside, 500)) == (6, 3, 0)


def test_a_limit_holds_for_each_label_and_chooses_the_same_whatever_the_order(parts):
    first, second = (by_labels([shown()], order, 4) for order in (parts, parts[::-1]))
    assert counts(first) == (4, 4, 0)
    assert (first.scores == second.scores).all()


def test_groups_of_labelled_images_are_kept(parts):
    tiles = [replace(one, group=f"tile{n // 2}") for n, one in enumerate(parts)]
    trial = by_labels([shown()], tiles, 500)
    assert len(trial.groups) == 12
    assert len(set(trial.groups)) == 6


def test_there_is_no_trial_without_both_labels(parts, good):
    assert by_labels([shown()], [one for one in parts if not one.gt_label], 500) is None
    gone = [replace(one, image_uri=f"{one.image_uri}.gone") for one in parts]
    assert by_labels([shown()], gone, 500) is None
    assert by_defects([shown()], [], 500) is None
    assert by_defects([shown()], good, 500) is None


def test_held_out_images_and_three_defects_on_each_stand_in(good):
    own = held_out(good)
    trial = by_defects([shown(sides=sides_of(good))], good, 500)
    assert counts(trial) == (len(own), 3 * len(own), 0)
    assert set(trial.groups) == {digest for _, digest in own}
    assert (trial.part, trial.num_shared) == ("", None)


def test_made_defects_are_no_more_than_the_limit(good):
    assert len(held_out(good)) > 8
    assert counts(by_defects([shown(sides=sides_of(good))], good, 8)) == (8, 6, 0)


def test_clean_held_out_images_score_as_in_their_calibration(good):
    model = small_model()
    samples = [sample for sample, _ in held_out(good)]
    decoded = preprocess.decode_samples(
        samples, preprocess.Preprocessor(MODEL.image_size, MODEL.resize)
    )
    expected = [scored.image_score for scored in inference.score_images(model, decoded)]
    trial = by_defects([shown(rival(model), sides_of(good))], good, 500)
    assert sorted(trial.scores[0][trial.labels == 0]) == pytest.approx(sorted(expected), rel=1e-5)


def test_only_images_that_both_models_held_out_are_shared(good):
    both = held_out(good)
    assert len(held_out(good, every=2)) > len(both) >= MIN_SHARED
    rivals = [shown(sides=sides_of(good, every=2)), shown(sides=sides_of(good))]
    trial = by_defects(rivals, good, 500)
    assert (trial.num_good, trial.num_shared) == (len(both), len(both))


def test_where_too_few_are_shared_the_challengers_own_are_shown(good):
    rivals = [shown(sides=sides_of(good)), shown(sides=sides_of(good, every=20))]
    trial = by_defects(rivals, good, 500)
    assert trial.num_shared == len(held_out(good, every=20)) < MIN_SHARED
    assert trial.num_good == len(held_out(good))


def test_cells_judge_an_image_as_if_they_had_not_been_fitted_to_it(good):
    decoder = preprocess.Preprocessor(MODEL.image_size, MODEL.resize)
    images = list(preprocess.decode_samples([sample for sample, _ in good], decoder))
    model = small_cells(np.stack([image.pixels for image in images]))
    known = {digest: "calibration" for _, digest in good}
    trial = by_defects([shown(rival(model), known)], good, 500)
    clean = trial.scores[0][trial.labels == 0]
    in_sample = np.array([scored.image_score for scored in inference.score_images(model, images)])
    assert len(clean) == len(in_sample)
    assert (np.sort(clean) > np.sort(in_sample)).all()


def test_models_of_different_sizes_are_shown_the_same_pictures(parts, good):
    sides = sides_of(good)
    large = shown(rival(small_model(WORSE, image_size=96, resize="letterbox")), sides)
    small = shown(sides=sides)
    for way, images in ((by_labels, parts), (by_defects, good)):
        together = way([small, large], images, 500)
        for number, alone in enumerate((small, large)):
            assert (way([alone], images, 500).scores[0] == together.scores[number]).all()


def test_defects_are_made_inside_the_region_of_interest(good):
    trial = by_defects([shown(rival(small_model(roi=region())), sides_of(good))], good, 500)
    scored = list(zip(trial.groups, trial.labels, trial.scores[0], strict=True))
    clean = {key: score for key, label, score in scored if not label}
    # What lies outside moves no score: a picture with a defect there would score as without.
    assert all(score != clean[key] for key, label, score in scored if label)


def test_unreadable_and_misfitting_images_are_left_out_and_counted(parts, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("no image")
    uris = str(text), painted(tmp_path / "wide.png", 32, 64), str(tmp_path / "gone.png")
    bad = [Sample(uri, "plate", "test", 1, "spot") for uri in uris]
    trial = by_labels([shown(rival(small_model(roi=region())))], [*parts, *bad], 500)
    assert counts(trial) == (6, 6, 3)


def test_what_the_champion_cannot_score_is_left_out_for_both(parts, tmp_path):
    wide = Sample(painted(tmp_path / "wide.png", 32, 64), "plate", "test", 1, "spot")
    rivals = [shown(), shown(rival(small_model(roi=region())))]
    trial = by_labels(rivals, [*parts, wide], 500)
    assert (trial.scores.shape, counts(trial)) == ((2, 12), (6, 6, 1))


def test_a_champion_that_can_score_none_leaves_the_challenger_alone(parts):
    trial = by_labels([shown(), shown(rival(small_model(roi=region(32))))], parts, 500)
    assert (trial.scores.shape, counts(trial)) == ((1, 12), (6, 6, 0))


def test_a_place_out_of_reach_is_no_trial(parts):
    # A name that no file system takes fails as a share that is gone does: not as a missing file.
    away = [replace(one, image_uri=f"{one.image_uri}{'x' * 300}") for one in parts]
    with pytest.raises(StorageError, match="xxx"):
        by_labels([shown()], away, 500)


def test_scores_that_are_not_finite_end_the_category(parts):
    model = small_model()
    model.get_buffer("level_mean").fill_(float("nan"))
    with pytest.raises(CategoryError, match=r"12 of the new model's 12 scores.*diverged"):
        by_labels([shown(rival(model))], parts, 500)
    trial = by_labels([shown(), shown(rival(model))], parts, 500)
    assert trial.scores.shape == (1, 12)
