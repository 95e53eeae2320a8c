import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, roc_auc_score

from mrkd.evaluation import metrics
from mrkd.evaluation.metrics import PixelHistogram
from tests.support.pixel_metrics import exact_figure
from tests.support.slow_metrics import slow_aupro

few = settings(max_examples=40)

# Few distinct values make ties likely, many make them rare.
VALUES = st.one_of(
    st.integers(0, 4).map(float), st.floats(-1e6, 1e6, allow_nan=False, allow_subnormal=False)
)


@st.composite
def scores_and_labels(draw):
    num = draw(st.integers(2, 40))
    labels = draw(hnp.arrays(np.int64, num, elements=st.integers(0, 1)))
    assume(0 < labels.sum() < num)
    return draw(hnp.arrays(np.float64, num, elements=VALUES)), labels


@st.composite
def maps_and_masks(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (draw(st.integers(1, 3)), 8, 8)
    values = rng.normal(size=draw(st.sampled_from([1, 2, 5, 1000])))
    gt_masks = rng.random(shape) < draw(st.sampled_from([0.02, 0.2, 0.6]))
    assume(0 < gt_masks.sum() < gt_masks.size)
    return list(rng.choice(values, shape)), list(gt_masks)


def increasing(values):
    """Another value for each, in the same order, with the same ties."""
    return np.cumsum(np.ones(values.size))[np.unique(values, return_inverse=True)[1]] ** 1.5


@few
@given(scores_and_labels())
def test_image_metrics_equal_scikit_learn(data):
    scores, labels = data
    assert metrics.image_auroc(scores, labels).value == pytest.approx(
        roc_auc_score(labels, scores), abs=1e-9
    )
    assert metrics.bootstrap_interval(
        "average_precision", scores, labels, resamples=0
    ).value == pytest.approx(average_precision_score(labels, scores), abs=1e-9)


@few
@given(scores_and_labels())
def test_an_increasing_transform_of_the_scores_changes_no_metric_but_the_threshold(data):
    scores, labels = data
    for metric in metrics.IMAGE_METRICS.keys() - {"f1_max_threshold"}:
        before = metrics.bootstrap_interval(metric, scores, labels, resamples=20)
        after = metrics.bootstrap_interval(metric, increasing(scores), labels, resamples=20)
        assert before == after


@few
@given(scores_and_labels())
def test_turning_scores_and_labels_round_changes_no_auroc(data):
    scores, labels = data
    turned = metrics.image_auroc(-scores, 1 - labels).value
    assert turned == pytest.approx(metrics.image_auroc(scores, labels).value, abs=1e-12)


@few
@given(maps_and_masks(), st.sampled_from([0.05, 0.3, 1.0]))
def test_aupro_equals_a_slow_brute_force(data, limit):
    maps, gt_masks = data
    found = exact_figure("aupro", maps, gt_masks, limit).value
    assert found == pytest.approx(slow_aupro(maps, gt_masks, limit), abs=1e-9)


@few
@given(maps_and_masks())
def test_pixel_auroc_equals_scikit_learn(data):
    maps, gt_masks = data
    expected = roc_auc_score(np.ravel(gt_masks), np.ravel(maps))
    assert exact_figure("pixel_auroc", maps, gt_masks).value == pytest.approx(expected, abs=1e-9)


@few
@given(maps_and_masks())
def test_an_increasing_transform_of_the_maps_changes_no_pixel_metric(data):
    maps, gt_masks = data
    transformed = list(increasing(np.ravel(maps)).reshape(np.shape(maps)))
    for metric in ("aupro", "pixel_auroc"):
        before, after = (exact_figure(metric, some, gt_masks).value for some in (maps, transformed))
        assert after == pytest.approx(before, abs=1e-12)


@few
@given(
    st.integers(0, 2**32),
    st.sampled_from(["gamma", "tied", "narrow", "wide", "constant", "far apart"]),
    st.sampled_from([0.05, 0.3]),
)
def test_bins_are_within_a_thousandth_of_the_exact_figures_whatever_the_values(seed, kind, limit):
    rng = np.random.default_rng(seed)
    shape = (4, 128, 128)
    maps = {
        "gamma": lambda: rng.gamma(2, 1, shape),
        "tied": lambda: rng.integers(0, 6, shape).astype(float),
        "narrow": lambda: 1 + 1e-6 * rng.random(shape),
        "wide": lambda: np.exp(rng.normal(0, 20, shape)),
        "constant": lambda: np.where(rng.random(shape) < 0.5, 0.0, -rng.random(shape)),
        "far apart": lambda: rng.normal(0, 1, shape) + 100 * np.arange(4)[:, None, None],
    }[kind]()
    gt_masks = np.zeros(shape, bool)
    for n in range(3):
        y, x = rng.integers(0, 100, 2)
        h, w = rng.integers(1, 28, 2)
        gt_masks[n, y : y + h, x : x + w] = True
    maps[gt_masks] = rng.permutation(maps[gt_masks]) + rng.choice([0, 0.3, 1.0])
    histogram = PixelHistogram()
    for anomaly_map, gt_mask in zip(maps, gt_masks, strict=True):
        histogram.add(anomaly_map, gt_mask)
    # The bound holds for the usual limit; a smaller one divides the same error by less.
    allowed = 1e-3 * max(1, 0.3 / limit)
    exact = exact_figure("aupro", maps, gt_masks, limit).value
    assert histogram.figure("aupro", fpr_limit=limit).value == pytest.approx(exact, abs=allowed)
    exact = exact_figure("pixel_auroc", maps, gt_masks).value
    assert histogram.figure("pixel_auroc").value == pytest.approx(exact, abs=1e-3)


@few
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), min_size=1, max_size=30),
    st.integers(0, 2**32),
)
def test_every_resample_draws_as_many_groups_as_there_are_and_each_stratum(images, seed):
    strata, groups = zip(*images, strict=True)
    weights = metrics.resample_weights(strata, groups, resamples=20, seed=seed)
    first = [groups.index(group) for group in sorted(set(groups))]
    assert (weights[:, first].sum(1) == len(first)).all()
    for stratum in set(strata):
        assert weights[:, [s == stratum for s in strata]].any(1).all()
