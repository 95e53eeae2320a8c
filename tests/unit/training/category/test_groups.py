"""Groups, folds and sides of a category's good images."""

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from mrkd.config import FitConfig, ModelConfig
from mrkd.data.leak_check import same_part
from mrkd.training.category.groups import (
    Groups,
    folds_of,
    groups_of,
    sides_of,
    split_of,
    why_no_student,
)

CONFIG = FitConfig()
CELLS = ModelConfig(cells=True)


def digests(count):
    return [f"{n:064x}" for n in range(count)]


def singles(count):
    return Groups(np.arange(count), "found")


def texture(rng):
    """A part whose fine structure is its own, uint8 `[1, 64, 64, 3]`."""
    return rng.integers(60, 200, (1, 64, 64, 3), np.uint8)


def again(shown, rng):
    """The same part a moment later, a little brighter."""
    return np.clip(shown * 0.95 + 12 + rng.normal(0, 3, shown.shape), 0, 255).astype(np.uint8)


def test_pictures_of_one_part_are_linked_whatever_lies_between_them():
    rng = np.random.default_rng(0)
    parts = [texture(rng) for _ in range(6)]
    shown = [*parts, again(parts[2], rng), again(parts[0], rng), again(parts[2], rng)]
    assert same_part(shown).tolist() == [0, 1, 2, 3, 4, 5, 2, 0, 2]


def test_pictures_in_other_numbers_of_tiles_are_of_other_parts():
    rng = np.random.default_rng(1)
    shown = [rng.integers(0, 255, (count, 64, 64, 3), np.uint8) for count in (1, 4, 1, 4, 4)]
    assert same_part([*shown, shown[0], shown[1]]).tolist() == [0, 1, 2, 3, 4, 0, 1]


def test_flat_pictures_are_no_error():
    assert len(set(same_part([np.full((1, 32, 32, 3), n, np.uint8) for n in (0, 90)]))) == 2


def test_folds_keep_groups_whole_and_are_even():
    sizes = [9, 9, 9, 8, 7, 5, 5, 4, 3, 3, 2, 1, 1]
    labels = np.repeat(np.arange(len(sizes)), sizes)
    folds = folds_of(Groups(labels, "given"))
    for group in range(len(sizes)):
        assert len(set(folds[labels == group])) == 1
    counts = Counter(folds.tolist())
    assert len(counts) == 8
    assert max(counts.values()) - min(counts.values()) <= 4


@pytest.mark.parametrize("count", [2, 4, 8])
def test_a_few_images_are_each_a_fold_of_their_own(count):
    assert sorted(folds_of(singles(count)).tolist()) == list(range(count))


@pytest.mark.parametrize("count", [4, 20, 100, 1000])
def test_sides_have_their_counts_whatever_the_number_of_images(count):
    sides = Counter(sides_of(singles(count), digests(count), CONFIG))
    share = max(1, round(0.1 * count))
    assert (sides["validation"], sides["calibration"]) == (share, share)


def test_sides_hold_whole_groups_and_no_more_than_half_as_many_again():
    rng = np.random.default_rng(0)
    labels = np.sort(rng.integers(0, 40, 300))
    labels = np.unique(labels, return_inverse=True)[1]
    sides = np.array(sides_of(Groups(labels, "given"), digests(300), CONFIG))
    for group in range(labels.max() + 1):
        assert len(set(sides[labels == group])) == 1
    for side in ("validation", "calibration"):
        assert 30 <= (sides == side).sum() <= 45


def test_a_group_too_large_for_a_side_is_trained_on():
    labels = np.array([0] * 200 + list(range(1, 51)))
    sides = np.array(sides_of(Groups(labels, "given"), digests(250), CONFIG))
    assert set(sides[:200]) == {"train"}
    assert Counter(sides.tolist())["validation"] == 25


def test_where_every_group_is_large_the_smallest_are_held_out():
    labels = np.repeat(np.arange(4), [50, 20, 30, 40])
    sides = np.array(sides_of(Groups(labels, "given"), digests(140), CONFIG))
    assert {side: set(labels[sides == side]) for side in ("validation", "calibration")} == {
        "calibration": {1},
        "validation": {2},
    }


def test_new_images_move_few_others():
    before = dict(zip(digests(300), sides_of(singles(300), digests(300), CONFIG), strict=True))
    more = digests(330)
    after = dict(zip(more, sides_of(singles(330), more, CONFIG), strict=True))
    moved = [digest for digest, side in before.items() if after[digest] != side]
    # Each side grows by 3 of 30 new images, and gives some of its places to new ones.
    assert len(moved) <= 12


def images(names, sides=None):
    """Good images as far as their groups are concerned."""
    good = [
        SimpleNamespace(
            sample=SimpleNamespace(group=name, side=side),
            digest=digest,
            calibrates=side is None,
        )
        for name, side, digest in zip(
            names, sides or [None] * len(names), digests(len(names)), strict=True
        )
    ]

    class Images(list):
        digests = property(lambda self: [one.digest for one in self])
        good = property(list)

    return Images(good)


def test_named_groups_come_before_any_that_could_be_found():
    found = groups_of(images(["b", "a", "b", None, None]), None)
    assert (found.labels.tolist(), found.source) == ([0, 1, 0, 2, 3], "given")


def test_reviewed_images_stand_on_the_training_side_and_calibrate_nothing():
    own = images([None] * 10, [None] * 8 + ["train"] * 2)
    for sided in (True, False):
        split = split_of(own, singles(10), CONFIG, sided=sided)
        assert split.sides[8:] == ["train", "train"]
        assert split.calibrating.tolist() == list(range(8))
    assert split.counts == {"train": 2, "validation": 0, "calibration": 8}


def test_images_of_one_group_alone_are_held_out_one_by_one():
    split = split_of(images(["a"] * 6), Groups(np.zeros(6, np.int64), "given"), CONFIG, sided=True)
    assert len(set(split.folds)) == 6
    assert split.counts == {"train": 4, "validation": 1, "calibration": 1}
    assert len(split.groups) == 1


def test_two_groups_leave_images_to_train_on():
    labels = np.repeat([0, 1], 10)
    split = split_of(images(["a", "b"] * 10), Groups(labels, "given"), CONFIG, sided=True)
    assert split.counts == {"train": 16, "validation": 2, "calibration": 2}


def test_images_that_may_only_train_take_no_place_of_those_that_are_held_out():
    own = images([None] * 140, [None] * 40 + ["train"] * 100)
    split = split_of(own, singles(140), CONFIG, sided=True)
    assert split.counts == {"train": 132, "validation": 4, "calibration": 4}
    assert "40 good images, fewer than" in why_no_student(CELLS, CONFIG, own, singles(140))


class Shown(list):
    """Good images as far as their squares are concerned, which need no teacher to be told apart."""

    digests = property(lambda self: digests(len(self)))
    good = property(lambda self: images([None] * len(self)).good)

    def squares(self, number):
        return self[number]


@pytest.mark.parametrize(("parts", "shots"), [(4, 2), (5, 4), (6, 5), (10, 4)])
def test_shots_of_one_part_stay_together_however_few_parts_there_are(parts, shots):
    rng = np.random.default_rng(0)
    first = [texture(rng) for _ in range(parts)]
    shown = Shown(first + [again(one, rng) for one in first for _ in range(shots - 1)])
    labels = groups_of(cast(Any, shown), None).labels
    expected = [*range(parts), *np.repeat(np.arange(parts), shots - 1)]
    assert labels.tolist() == expected


def test_a_student_beside_cells_wants_images_and_groups_enough():
    def why(groups, model=CELLS):
        return why_no_student(model, CONFIG, images([None] * len(groups.labels)), groups)

    assert why(singles(100)) == ""
    assert "99 good images, fewer than train.min_images_for_student (100)" in why(singles(99))
    few = Groups(np.arange(200) % 15, "found")
    assert "15 groups of good images, fewer than 16" in why(few)
    assert why(singles(4), ModelConfig()) == ""
