import numpy as np
import pytest

from mrkd.evaluation.metrics import operating_points, rare_defects, reviewed_points
from mrkd.evaluation.metrics.thresholds import wilson


def scores(seed=0, good=200, bad=60, apart=2.0):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(size=good), rng.normal(apart, 1, bad)])
    return values, np.repeat([0, 1], [good, bad])


def points(*args, **values):
    return {point.rule: point for point in operating_points(*args, **values)}


def test_each_rule_keeps_what_it_promises_and_no_looser_threshold_would():
    values, labels = scores()
    found = points(values, labels, threshold=1.5)
    good, bad = np.sort(values[labels == 0]), np.sort(values[labels == 1])
    own = found["the model's own"]
    assert own.threshold == 1.5
    assert own.false_calls.value == np.mean(good > 1.5)
    assert own.escapes.value == np.mean(bad <= 1.5)
    for rate in (0.001, 0.01, 0.05):
        point = found[f"at most {100 * rate:g} % false calls"]
        assert np.mean(good > point.threshold) == point.false_calls.value <= rate
        # The next lower score that lies between would call one good part more than is allowed.
        below = good[good < point.threshold]
        assert np.mean(good >= below[-1]) > rate
    for recall in (0.95, 1.0):
        point = found[f"{100 * recall:g} % of the defective found"]
        assert 1 - point.escapes.value == np.mean(bad > point.threshold) >= recall
        above = bad[bad > point.threshold]
        assert np.mean(bad > above[0]) < recall


def test_counts_are_of_the_line_and_not_of_the_test_set():
    values, labels = scores()
    point = points(values, labels, threshold=1.0, defect_rate=0.005)["the model's own"]
    share = np.mean(values[labels == 0] > 1.0)
    assert point.false_calls_in_10000.value == pytest.approx(9950 * share)
    assert point.escapes_in_10000.value == pytest.approx(50 * np.mean(values[labels == 1] <= 1.0))
    assert point.escapes_in_10000.low < point.escapes_in_10000.value < 50


@pytest.mark.parametrize(("escape", "false_call"), [(100.0, 1.0), (1.0, 1.0), (1.0, 500.0)])
def test_the_cheapest_threshold_is_the_cheapest_of_all(escape, false_call):
    values, labels = scores()
    costs = {"cost_escape": escape, "cost_false_call": false_call}
    found = points(values, labels, threshold=1.0, defect_rate=0.1, **costs)

    def cost(threshold):
        called = values > threshold
        wrong = 0.9 * np.mean(called[labels == 0]) * false_call
        return wrong + 0.1 * np.mean(~called[labels == 1]) * escape

    best = found["lowest cost"]
    assert best.cost == pytest.approx(cost(best.threshold))
    assert best.cost <= min(cost(t) for t in np.append(values, values.min() - 1)) + 1e-12
    assert found["the model's own"].cost == pytest.approx(cost(1.0))


def test_without_costs_nothing_costs_anything_and_one_class_has_no_points():
    values, labels = scores()
    assert all(point.cost is None for point in operating_points(values, labels, threshold=1.0))
    assert operating_points(values, np.zeros_like(labels), threshold=1.0) == []


def test_pictures_of_one_part_count_once_in_the_intervals():
    values, labels = scores()
    alone = points(values, labels, threshold=1.0)["the model's own"].false_calls
    groups = [f"part {n // 4}" for n in range(len(values))]
    grouped = points(values, labels, groups, threshold=1.0)["the model's own"].false_calls
    assert grouped.value == alone.value
    assert grouped.low < alone.low < alone.high < grouped.high


def test_the_interval_of_a_share_iswilsons():
    # Newcombe 1998, table I: 81 of 263, and 0 of 20.
    found = wilson(81 / 263, 263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    found = wilson(0.0, 20)
    assert (found.low, found.high) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_test_sets_with_few_defects_keep_the_auroc_and_widen_its_range():
    values, labels = scores(good=500, bad=300)
    found = rare_defects(values, labels, resamples=400)
    whole = rare_defects(values, labels, defect_rate=0.375, resamples=400)
    assert set(found) == {"image_auroc", "average_precision", "f1_max"}
    assert found["image_auroc"].value == pytest.approx(whole["image_auroc"].value, abs=0.01)
    wide, narrow = found["image_auroc"], whole["image_auroc"]
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert found["average_precision"].value < whole["average_precision"].value - 0.2
    assert rare_defects(values, labels, resamples=0) == {}
    assert rare_defects(values, np.ones_like(labels)) == {}


def line(seed, size=20_000):
    """Parts of a line, 3 % defective, and which of them a model calls."""
    rng = np.random.default_rng([11, seed])
    labels = (rng.random(size) < 0.03).astype(int)
    scores = rng.normal(2.0 * labels)
    return rng, labels, scores, (scores > 1.5).astype(int)


def looked_at(rng, labels, scores, calls, share_ok, **values):
    """The points of a line of whose uncalled parts people looked at a share, and at all others."""
    seen = (calls == 1) | (rng.random(len(labels)) < share_ok)
    sizes = tuple(np.bincount(calls).tolist())
    found = reviewed_points(scores[seen], labels[seen], calls[seen], sizes, threshold=1.5, **values)
    return {point.rule: point for point in found}


def test_where_people_looked_at_all_parts_the_points_are_those_of_the_line():
    rng, labels, scores, calls = line(0, size=3000)
    costs = {"cost_escape": 100.0, "cost_false_call": 1.0}
    seen = looked_at(rng, labels, scores, calls, 1.0, **costs)
    whole = points(scores, labels, threshold=1.5, defect_rate=labels.mean(), **costs)
    assert seen.keys() == whole.keys()
    for rule, point in whole.items():
        assert seen[rule].threshold == point.threshold
        for name in ("escapes", "false_calls", "escapes_in_10000", "false_calls_in_10000"):
            assert getattr(seen[rule], name).value == pytest.approx(getattr(point, name).value)
        assert seen[rule].cost == pytest.approx(point.cost)


def test_the_few_good_calls_that_were_looked_at_stand_for_all_with_honest_intervals():
    """Lines of 3 % defects of which a third escapes; people look at 2 % of the good calls."""
    covered = {"escapes_in_10000": 0, "false_calls_in_10000": 0, "escapes": 0, "false_calls": 0}
    values, truths = [], []
    for seed in range(300):
        rng, labels, scores, calls = line(seed)
        own = looked_at(rng, labels, scores, calls, 0.02)["the model's own"]
        missed, called = (labels == 1) & (scores <= 1.5), (labels == 0) & (scores > 1.5)
        truth = {
            "escapes_in_10000": 10_000 * missed.mean(),
            "false_calls_in_10000": 10_000 * called.mean(),
            "escapes": missed.sum() / labels.sum(),
            "false_calls": called.sum() / (labels == 0).sum(),
        }
        for name in covered:
            rate = getattr(own, name)
            covered[name] += rate.low <= truth[name] <= rate.high
        values.append(own.escapes_in_10000.value)
        truths.append(truth["escapes_in_10000"])
    assert np.mean(values) == pytest.approx(np.mean(truths), rel=0.05)
    assert min(covered.values()) / 300 > 0.92, covered


def test_none_found_among_few_does_not_mean_that_none_escapes():
    scores, labels = [0.1] * 20 + [0.9] * 10, [0] * 20 + [1] * 10
    own, *_ = reviewed_points(scores, labels, [0] * 20 + [1] * 10, (1000, 10), threshold=0.5)
    assert own.escapes.value == own.escapes_in_10000.value == 0
    # Up to 16 % of 1,000 are compatible with none of 20.
    assert 1000 < own.escapes_in_10000.high < 2000
    assert own.escapes.high > 0.9
    # What was called good lies below the threshold, so that none of it is a false call there.
    assert own.false_calls_in_10000.high < 10_000 * 10 / 1010
