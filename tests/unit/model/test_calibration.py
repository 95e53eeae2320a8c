import logging

import numpy as np
import pytest

from mrkd.data.images import Statistics
from mrkd.errors import CategoryError
from mrkd.model.artefact import Calibration
from mrkd.model.calibration import MAX_STORED, at_rate, at_threshold, calibrate, threshold_at
from mrkd.model.tails import tail_limit


def calibration_of(scores, rate=0.01, maxima=None, **values) -> Calibration:
    return calibrate(
        scores,
        scores if maxima is None else maxima,
        [Statistics(0.5, 0.1, float(n)) for n in range(len(scores))],
        false_call_rate=rate,
        **values,
    )


@pytest.mark.parametrize(
    ("num", "rate", "rank"),
    [
        (99, 0.01, 99),  # ceil(100 * 0.99)
        (199, 0.01, 198),
        (100, 0.01, 100),  # ceil(99.99)
        (99, 0.29, 71),  # 100 * 0.29 is below 29 in floats
        (19, 0.05, 19),
        (9, 0.5, 5),
    ],
)
def test_threshold_is_the_stated_rank(num, rate, rank):
    held_out = np.arange(1, num + 1, dtype=np.float64)
    assert threshold_at(np.random.default_rng(0).permutation(held_out), rate) == rank


def test_a_supported_rate_is_stored_as_asked_for_and_not_warned_of(caplog):
    calibration = calibration_of(np.arange(99), rate=0.01)
    assert calibration.supported_false_call_rate == 0.01
    assert calibration.warning == ""
    assert not caplog.records


def test_too_few_images_for_the_rate_give_an_extrapolated_threshold_and_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        calibration = calibration_of([3.0, 1.0, 2.0, 5.0, 4.0])
    # Of five the upper three exceed 2 by 6 together: 2 + 6 ((4/6 / 0.01)^(1/3) - 1).
    assert calibration.threshold == pytest.approx(2 + 6 * ((4 / 6 / 0.01) ** (1 / 3) - 1))
    assert calibration.threshold == float(np.float32(calibration.threshold))
    assert calibration.supported_false_call_rate == pytest.approx(1 / 6)
    assert "5 good images vouch for a false-call rate of 16.67%" in calibration.warning
    assert "needs 99: the threshold is extrapolated" in calibration.warning
    assert calibration.warning in caplog.text


@pytest.mark.parametrize("scores", [[1.0], [1.0, 1.0], [2.0, 1.0], [1.0, 1.0, 1.0, 9.0]])
def test_an_extrapolated_threshold_is_never_below_the_largest_score(scores):
    assert max(scores) <= threshold_at(scores, 0.01) < np.inf


@pytest.mark.parametrize("count", [4, 5, 8, 16, 40])
def test_an_exponential_tail_is_passed_as_often_as_was_asked(count):
    drawn = np.random.default_rng(0).exponential(3.0, (40_000, count + 1))
    passed = [new > tail_limit(np.sort(values), 0.02) for *values, new in drawn]
    assert 0.0175 < np.mean(passed) < 0.0225


def test_groups_vouch_for_less_than_their_images():
    calibration = calibration_of(np.arange(120), num_groups=8)
    assert calibration.threshold == calibration_of(np.arange(120)).threshold
    assert calibration.supported_false_call_rate == pytest.approx(1 / 9)
    assert (
        "120 good images in 8 groups vouch for a false-call rate of 11.11%" in calibration.warning
    )
    assert "needs 99 groups: the threshold holds for parts of these groups" in calibration.warning
    assert at_rate(calibration, 0.2).warning == ""
    assert at_threshold(calibration, 1e6).supported_false_call_rate == pytest.approx(1 / 9)


def test_a_note_is_part_of_the_warning():
    calibration = calibration_of(np.arange(99), note="look at the first night")
    assert calibration.warning == "look at the first night"


def test_a_calibration_of_before_there_were_groups_has_one_for_each_image():
    stored = calibration_of(np.arange(99)).to_json()
    del stored["num_groups"], stored["note"]
    assert Calibration.from_json(stored) == calibration_of(np.arange(99))


def test_pixel_threshold_comes_from_the_maxima_of_the_held_out_maps():
    calibration = calibration_of(np.arange(99), maxima=np.arange(99) * 10.0)
    assert calibration.pixel_threshold == 980.0
    assert calibration.pixel_maxima == tuple(np.arange(99) * 10.0)


def test_scores_are_stored_rising_as_the_float32_values_that_they_are():
    calibration = calibration_of([0.3, 0.1, 0.2, 0.7], rate=0.2)
    assert calibration.scores == tuple(float(np.float32(v)) for v in (0.1, 0.2, 0.3, 0.7))
    assert np.float32(calibration.threshold) == np.float32(0.7)


def test_statistics_of_the_held_out_images_are_stored():
    assert calibration_of([1, 2, 3, 4]).statistics["sharpness"] == (0.0, 1.0, 2.0, 3.0)


def test_p_value_counts_the_held_out_scores_at_least_as_high_and_itself():
    calibration = calibration_of([1.0, 2.0, 2.0, 4.0])
    p_values = calibration.p_values([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    np.testing.assert_allclose(p_values, np.array([5, 5, 4, 2, 2, 1]) / 5, rtol=1e-6)
    assert p_values.dtype == np.float32


def test_a_score_equal_to_a_stored_one_counts_whatever_its_float_type():
    calibration = calibration_of(np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    assert calibration.p_values(np.float32(0.4)) == calibration.p_values(float(np.float32(0.4)))
    assert calibration.p_values(np.float32(0.4)) == np.float32(2 / 5)


def test_more_scores_than_are_stored_keep_ends_and_threshold():
    scores = np.arange(3 * MAX_STORED, dtype=np.float32)
    calibration = calibration_of(scores)
    assert len(calibration.scores) == MAX_STORED
    assert (calibration.scores[0], calibration.scores[-1]) == (0, scores[-1])
    assert calibration.threshold == pytest.approx(0.99 * len(scores), rel=1e-4)
    assert threshold_at(np.array(calibration.scores), 0.01) == calibration.threshold


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused_with_their_count(bad):
    with pytest.raises(CategoryError, match=r"1 of 5 held-out image scores are not finite"):
        calibration_of([1.0, 2.0, bad, 3.0, 4.0])
    with pytest.raises(CategoryError, match=r"1 of 4 held-out map maxima are not finite"):
        calibration_of([1.0, 2.0, 3.0, 4.0], maxima=[1.0, bad, 1.0, 1.0])


def test_values_of_different_numbers_of_images_are_a_callers_fault():
    with pytest.raises(ValueError, match="4 scores, 5 maxima"):
        calibration_of([1, 2, 3, 4], maxima=[1, 2, 3, 4, 5])


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_rate_outside_0_and_1_is_a_callers_fault(rate):
    with pytest.raises(ValueError, match="rate"):
        threshold_at(np.ones(4), rate)


def test_another_rate_gives_what_a_calibration_at_that_rate_has():
    scores, maxima = np.arange(199), np.arange(199) * 10.0
    other = at_rate(calibration_of(scores, rate=0.01, maxima=maxima), 0.05)
    assert other == calibration_of(scores, rate=0.05, maxima=maxima)


def test_another_rate_that_the_images_do_not_support_is_warned_of():
    other = at_rate(calibration_of(np.arange(19), rate=0.05), 0.01)
    assert other.threshold > 18
    assert other.supported_false_call_rate == 0.05
    assert "19 good images vouch" in other.warning


@pytest.mark.parametrize(
    ("threshold", "rate"),
    [(18, 0.05), (1e6, 0.05), (17.5, 0.1), (17, 0.1), (9, 0.5), (0, 0.95), (-1, 1.0)],
)
def test_the_rate_of_a_threshold_counts_the_held_out_scores_above_it_and_one_more(threshold, rate):
    base = calibration_of(np.arange(19), rate=0.2)
    other = at_threshold(base, threshold)
    assert other.threshold == threshold
    assert other.false_call_rate == other.supported_false_call_rate == pytest.approx(rate)
    assert other.warning == ""
    assert other.pixel_threshold == base.pixel_threshold


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.25, 0.5])
def test_a_threshold_that_a_rate_gave_has_that_rate(rate):
    base = at_rate(calibration_of(np.arange(19)), rate)
    assert at_threshold(base, base.threshold).false_call_rate == pytest.approx(rate)


def test_a_threshold_is_a_float32_so_that_rows_hold_the_very_value():
    threshold = at_threshold(calibration_of(np.arange(19)), 0.1).threshold
    assert threshold == float(np.float32(0.1)) != 0.1
