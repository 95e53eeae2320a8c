"""Another threshold, from the stored scores of a night."""

import numpy as np
import pytest

from mrkd.errors import NightError
from mrkd.nights.try_threshold import try_threshold
from tests.support.closed_nights import failed, scored, write_night


@pytest.fixture
def night(tmp_path):
    """Five images of plate by a threshold of 0.5, one of them an error; one of ring."""
    rows = [
        scored("a", 0.2),
        scored("b", 0.4),
        scored("c", 0.6),
        scored("d", 0.8),
        failed("e"),
        scored("f", 0.6, category="ring"),
    ]
    return write_night(str(tmp_path), "night-1", rows)


def test_counts_as_they_were_and_would_have_been(night):
    assert try_threshold(night, "plate", 0.3).counts == {
        "ok": 2,
        "nok": 2,
        "ok_then": 1,
        "nok_then": 3,
        "ok_to_nok": 1,
        "nok_to_ok": 0,
        "errors": 1,
    }


def test_flips_go_both_ways_the_nearest_to_the_new_threshold_first(night):
    trial = try_threshold(night, "plate", 0.9)
    assert trial.flips["image_uri"].to_pylist() == ["d", "c"]
    assert set(trial.flips["was"].to_pylist()) == {"NOK"}
    assert set(trial.flips["would_be"].to_pylist()) == {"OK"}
    assert try_threshold(night, "plate", 0.1).flips["image_uri"].to_pylist() == ["a", "b"]


def test_the_night_s_own_threshold_changes_nothing(night):
    trial = try_threshold(night, "plate", 0.5)
    assert trial.flips.num_rows == 0
    assert (trial.counts["ok"], trial.counts["nok"]) == (2, 2)


def test_an_image_is_defective_strictly_above_the_threshold_in_float32(night):
    exact = float(np.float32(0.6))
    for threshold in (exact, 0.6):
        assert try_threshold(night, "plate", threshold).counts["nok_then"] == 1
    assert try_threshold(night, "plate", np.nextafter(np.float32(0.6), 0)).counts["nok_then"] == 2


def test_each_model_that_scored_the_category_has_its_own_line(tmp_path):
    first = [scored("a", 0.4), scored("b", 0.6)]
    second = [scored("c", 40, threshold=50.0, model_version="v2", calibration=3)]
    trial = try_threshold(write_night(str(tmp_path), "n", first, second), "plate", 0.5)
    lines = [(row["model_version"], row["calibration"], row["threshold"]) for row in trial.models]
    assert lines == [("v1", 1, 0.5), ("v2", 3, 50.0)]
    assert [row["ok_to_nok"] for row in trial.models] == [0, 1]


def test_a_model_that_was_calibrated_anew_in_mid_night_has_a_line_for_each(tmp_path):
    rows = [scored("a", 0.4), scored("b", 0.6, threshold=0.7, calibration=2)]
    trial = try_threshold(write_night(str(tmp_path), "n", rows), "plate", 0.3)
    assert [(row["calibration"], row["ok"], row["ok_to_nok"]) for row in trial.models] == [
        (1, 1, 1),
        (2, 1, 1),
    ]


def test_a_superseded_row_does_not_count(tmp_path):
    uri = write_night(str(tmp_path), "n", [scored("a", 0.4)], [scored("a", 0.1)])
    assert try_threshold(uri, "plate", 0.3).counts["nok_then"] == 0


def test_a_category_of_errors_alone_has_nothing_to_decide(tmp_path):
    uri = write_night(str(tmp_path), "n", [failed("a")])
    trial = try_threshold(uri, "plate", 0.3)
    assert (trial.models, trial.flips.num_rows, trial.errors) == ([], 0, 1)


def test_a_category_that_is_not_there_is_named_with_the_nearest(night):
    with pytest.raises(NightError, match="no category 'plat'; did you mean 'plate'"):
        try_threshold(night, "plat", 0.5)


def test_an_open_night_is_refused(tmp_path):
    with pytest.raises(NightError, match="no closed revision"):
        try_threshold(str(tmp_path / "nights" / "n"), "plate", 0.5)
