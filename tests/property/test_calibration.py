import json
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mrkd.data.images import Statistics
from mrkd.model.artefact import Calibration
from mrkd.model.calibration import calibrate, threshold_at

scores = st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=60)
rates = st.sampled_from([0.001, 0.01, 0.05, 0.1, 0.25, 0.5])


def calibration_of(values, rate) -> Calibration:
    statistics = [Statistics(0.5, 0.1, 1.0)] * len(values)
    return calibrate(values, values, statistics, false_call_rate=rate)


@settings(deadline=None)
@given(scores, rates)
def test_at_most_the_supported_share_of_n_plus_1_exchangeable_scores_lies_above(values, rate):
    """Each of n + 1 scores in turn is the new one, the others are held out."""
    above = 0
    for n, new in enumerate(values):
        held_out = np.array(values[:n] + values[n + 1 :])
        above += new > threshold_at(held_out, rate)
    assert above <= max(math.floor(rate * len(values) + 1e-9), 1)


@settings(deadline=None)
@given(scores, rates)
def test_anomalous_is_the_same_as_a_p_value_at_most_the_supported_rate(values, rate):
    calibration = calibration_of(values, rate)
    n = len(values)
    for score in [*values, *(np.nextafter(np.float32(v), np.float32(np.inf)) for v in values)]:
        count = round(float(calibration.p_values(score)) * (n + 1))
        allowed = math.floor(rate * (n + 1) + 1e-9)
        if allowed:
            assert (score > calibration.threshold) == (count <= allowed)
        elif score > calibration.threshold:  # extrapolated: above all that is known
            assert count == 1


@settings(deadline=None)
@given(scores, rates)
def test_neither_order_nor_storage_changes_a_calibration(values, rate):
    calibration = calibration_of(values, rate)
    assert calibration_of(values[::-1], rate) == calibration
    stored = json.loads(json.dumps(calibration.to_json()))
    assert Calibration.from_json(stored) == calibration


@settings(deadline=None)
@given(scores)
def test_p_values_lie_in_their_range_and_never_rise_with_the_score(values):
    calibration = calibration_of(values, 0.01)
    p_values = calibration.p_values(np.sort(np.array(values, np.float32)))
    assert (np.diff(p_values) <= 0).all()
    assert p_values.max() == 1
    assert p_values.min() >= np.float32(1 / (len(values) + 1))


@settings(deadline=None)
@given(scores, rates)
def test_a_higher_rate_never_has_a_higher_threshold(values, rate):
    lower = threshold_at(np.array(values), rate)
    assert threshold_at(np.array(values), min(2 * rate, 0.9)) <= lower
