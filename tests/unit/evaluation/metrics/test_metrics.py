import time
from statistics import NormalDist

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from mrkd.evaluation import metrics
from mrkd.evaluation.metrics import IMAGE_METRICS, PixelHistogram
from mrkd.evaluation.metrics.image import Curve, fpr_at_recall
from tests.support.pixel_metrics import exact_figure
from tests.support.slow_metrics import slow_aupro, slow_regions

# The vectors of spec section 9.
MAPS = [
    np.array([row.split() for row in text.split("/")], float)
    for text in (
        ".9 .383 .043 .915 / .447 .55 .426 .234 / .021 .404 .213 .468 / .596 .128 .638 .064",
        ".766 .936 .34 .745 / .957 .489 .574 .17 / .787 .979 .95 .7 / .511 .532 .4 .85",
        ".894 .191 .809 .851 / .277 .255 .149 .83 / 1 .106 .298 .617 / .872 .702 .319 .66",
    )
]
GT_MASKS = [np.zeros((4, 4), bool) for _ in MAPS]
GT_MASKS[0][[0, 1], [0, 1]] = True
GT_MASKS[1][2:, 2:] = True


def scores_and_labels(num=200, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random(num) < 0.4).astype(int)
    # Few distinct values, so that there are ties within and across the classes.
    return np.round(rng.normal(size=num) + labels, 1), labels


def maps_and_masks(num, side, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    maps, gt_masks = rng.gamma(3, 1, (num, side, side)).astype(dtype), []
    for n in range(num):
        gt_masks.append(np.zeros((side, side), bool))
        for _ in range(n % 3):
            y, x = rng.integers(0, side - 8, 2)
            h, w = rng.integers(1, side // 4, 2)
            gt_masks[n][y : y + h, x : x + w] = True
        maps[n] += gt_masks[n] * rng.gamma(1.5, 1, (side, side)).astype(dtype)
    return list(maps), gt_masks


def ends(metric):
    """Low end, value and high end of a metric that has them."""
    found = (metric.low, metric.value, metric.high)
    assert None not in found
    return np.array(found, float)


def width(metric):
    low, _, high = ends(metric)
    return high - low


def test_the_vectors_of_the_spec_come_out():
    assert exact_figure("aupro", MAPS, GT_MASKS).value == pytest.approx(0.2916667, abs=5e-8)
    assert exact_figure("aupro", MAPS, GT_MASKS, 1.0).value == pytest.approx(0.7053571, abs=5e-8)
    assert exact_figure("pixel_auroc", MAPS, GT_MASKS).value == pytest.approx(0.7023810, abs=5e-8)


@pytest.mark.parametrize("seed", range(5))
def test_image_metrics_equal_scikit_learn(seed):
    scores, labels = scores_and_labels(seed=seed)
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-30)
    best, best_threshold = (
        metrics.bootstrap_interval(metric, scores, labels, resamples=0)
        for metric in ("f1_max", "f1_max_threshold")
    )

    assert metrics.image_auroc(scores, labels).value == pytest.approx(
        roc_auc_score(labels, scores), abs=1e-9
    )
    assert metrics.bootstrap_interval(
        "average_precision", scores, labels, resamples=0
    ).value == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
    assert best.value == pytest.approx(f1.max(), abs=1e-9)
    assert best_threshold.value in thresholds[np.flatnonzero(f1[:-1] > f1.max() - 1e-12)]


def test_average_precision_at_2_percent_is_that_of_good_images_repeated_up_to_it():
    scores, labels = scores_and_labels()
    weights = np.where(labels == 1, 1.0, 49 * labels.sum() / (labels == 0).sum())
    expected = average_precision_score(labels, scores, sample_weight=weights)
    found = metrics.bootstrap_interval("average_precision_at_2_percent", scores, labels)
    assert found.value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("recall", "expected"), [(0.5, 0.0), (0.75, 0.25), (1.0, 0.75)])
def test_fpr_at_recall_counts_good_images_at_the_threshold_that_finds_enough(recall, expected):
    scores = [9, 8, 6, 3, 7, 5, 4, 1]
    labels = [1, 1, 1, 1, 0, 0, 0, 0]
    curve = Curve.of(np.array(scores), np.array(labels), np.ones(8))
    assert fpr_at_recall(curve, recall) == expected


def test_a_recall_that_is_a_whole_number_of_images_is_met_by_that_number():
    # 0.95 x 60 is 57, not 57.000000000000001: three missed images are allowed.
    scores = np.concatenate([np.full(57, 3.0), np.full(3, 1.0), np.full(10, 2.0)])
    labels = np.concatenate([np.ones(60), np.zeros(10)])
    assert fpr_at_recall(Curve.of(scores, labels, np.ones(70)), 0.95) == 0


def test_equal_scores_are_worth_half():
    assert metrics.image_auroc([1, 1, 1], [0, 1, 1]).value == 0.5


@pytest.mark.parametrize(
    ("labels", "reason"),
    [([0, 0], "all 2 images are good"), ([1, 1], "all 2 images are anomalous"), ([], "no images")],
)
@pytest.mark.parametrize("metric", IMAGE_METRICS)
def test_one_class_alone_gives_no_value_but_a_reason(metric, labels, reason):
    found = metrics.bootstrap_interval(metric, np.arange(len(labels)), labels)
    assert (found.value, found.low, found.high, found.reason) == (None, None, None, reason)


def test_maps_without_a_defect_give_no_value_but_a_reason():
    found = exact_figure("aupro", MAPS, [None] * 3)
    assert (found.value, found.reason) == (None, "all pixels of the 3 images are good")
    found = exact_figure("pixel_auroc", MAPS, [np.ones((4, 4), bool)] * 3)
    assert (found.value, found.reason) == (None, "all pixels of the 3 images are defective")


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1, np.nan], [0, 1], "1 of the 2 scores are NaN"),
        ([1, 2], [0, 2], "expected 0"),
        ([1, 2], [0, 1, 1], r"\(1, 2\) and labels \(3,\)"),
    ],
)
def test_wrong_scores_and_labels_are_refused(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.image_auroc(scores, labels)


def test_wrong_maps_are_refused():
    with pytest.raises(ValueError, match="image 0 holds a NaN"):
        exact_figure("aupro", [np.full((4, 4), np.nan)], [GT_MASKS[0]])
    with pytest.raises(ValueError, match="expected one"):
        exact_figure("pixel_auroc", [MAPS[0]], [np.zeros((4, 5), bool)])
    with pytest.raises(ValueError, match="fpr_limit is 0"):
        exact_figure("aupro", MAPS, GT_MASKS, 0)


def test_regions_touch_by_corners_and_count_alike_whatever_their_size():
    gt_mask = np.zeros((8, 8), bool)
    gt_mask[0, 0] = gt_mask[1, 1] = gt_mask[4:8, 4:8] = True
    assert len(slow_regions(gt_mask)) == 2
    # The small region is found before any good pixel, the large one after all of them.
    anomaly_map = np.ones((8, 8))
    anomaly_map[[0, 1], [0, 1]] = 2
    anomaly_map[4:8, 4:8] = 0
    assert exact_figure("aupro", [anomaly_map], [gt_mask]).value == 0.5
    assert exact_figure("pixel_auroc", [anomaly_map], [gt_mask]).value == pytest.approx(2 / 18)


def test_pixel_metrics_equal_independent_code_on_maps_of_different_sizes():
    maps, gt_masks = maps_and_masks(4, 12)
    maps[1], gt_masks[1] = maps[1][:9], gt_masks[1][:9]
    pixels = np.concatenate([m.ravel() for m in maps])
    defective = np.concatenate([g.ravel() for g in gt_masks])
    for limit in (0.05, 0.3, 1.0):
        found = exact_figure("aupro", maps, gt_masks, limit).value
        assert found == pytest.approx(slow_aupro(maps, gt_masks, limit), abs=1e-9)
    assert exact_figure("pixel_auroc", maps, gt_masks).value == pytest.approx(
        roc_auc_score(defective, pixels), abs=1e-9
    )


def test_a_figure_over_some_images_is_that_of_a_set_of_them_alone():
    maps, gt_masks = maps_and_masks(9, 32)
    histogram = PixelHistogram(bins=None)
    for anomaly_map, gt_mask in zip(maps, gt_masks, strict=True):
        histogram.add(anomaly_map, gt_mask)
    some = [0, 2, 7]
    alone = exact_figure("aupro", [maps[n] for n in some], [gt_masks[n] for n in some])
    assert histogram.figure("aupro", some) == alone
    assert len(histogram) == 9


def test_large_maps_take_little_time_and_bins_are_close():
    maps, gt_masks = maps_and_masks(60, 256)
    start = time.process_time()
    exact = (
        exact_figure("aupro", maps, gt_masks).value,
        exact_figure("pixel_auroc", maps, gt_masks).value,
    )
    exact_s = time.process_time() - start
    start = time.process_time()
    histogram = PixelHistogram()
    for anomaly_map, gt_mask in zip(maps, gt_masks, strict=True):
        histogram.add(anomaly_map, gt_mask)
    binned = histogram.figure("aupro").value, histogram.figure("pixel_auroc").value
    binned_s = time.process_time() - start

    assert binned == pytest.approx(exact, abs=1e-3)
    # 0.2 and 0.1 s where this was written; 300 maps must take 15 and 3 s at most.
    assert exact_s < 3
    assert binned_s < 0.6


def test_intervals_hold_the_value_and_narrow_with_more_images():
    few = metrics.bootstrap_interval("image_auroc", *scores_and_labels(60))
    many = metrics.bootstrap_interval("image_auroc", *scores_and_labels(2000))
    assert (np.diff([ends(few), ends(many)]) > 0).all()
    assert width(many) < width(few) / 3


@pytest.mark.parametrize("auroc", [0.7, 0.9, 0.97])
def test_intervals_hold_the_truth_about_as_often_as_they_say(auroc):
    # Normal scores: the true AUROC is Phi(apart / sqrt 2).
    apart = NormalDist().inv_cdf(auroc) * 2**0.5
    labels = np.repeat([0, 1], 50)
    rng = np.random.default_rng(round(100 * auroc))
    hits = 0
    for seed in range(1000):
        found = metrics.bootstrap_interval(
            "image_auroc", rng.normal(labels * apart), labels, resamples=300, seed=seed
        )
        hits += found.low <= auroc <= found.high
    assert 0.93 <= hits / 1000 <= 0.97


def test_an_interval_of_a_perfect_score_is_that_score():
    found = metrics.bootstrap_interval("image_auroc", [1, 2, 3, 4], [0, 0, 1, 1])
    assert ends(found).tolist() == [1, 1, 1]


def test_a_binned_distribution_lies_around_the_exact_figure():
    maps, gt_masks = maps_and_masks(12, 64)
    histogram = PixelHistogram()
    for anomaly_map, gt_mask in zip(maps, gt_masks, strict=True):
        histogram.add(anomaly_map, gt_mask)
    itself = np.zeros((1, 12), np.uint16)
    itself[0, :8] = 1
    figure, (same,) = histogram.resampled("aupro", np.arange(8), itself)
    assert figure.value == pytest.approx(same, abs=1e-12)
    assert figure == histogram.figure("aupro", range(8))


def test_groups_drawn_as_one_give_a_wider_interval():
    scores, labels = scores_and_labels(40)
    scores, labels = np.repeat(scores, 5), np.repeat(labels, 5)
    alone = metrics.bootstrap_interval("image_auroc", scores, labels)
    grouped = metrics.bootstrap_interval(
        "image_auroc", scores, labels, groups=np.repeat(np.arange(40), 5).tolist()
    )
    assert grouped.value == alone.value
    assert width(grouped) > 1.7 * width(alone)


def test_resamples_hold_every_stratum_and_draw_groups_whole():
    strata = ["good", "good", "crack", "crack", "hole", "good"]
    groups = ["a", "a", "b", "c", "d", None]
    weights = metrics.resample_weights(strata, groups, resamples=50, seed=3)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 2] + weights[:, 3] == 2).all()
    assert (weights[:, 4] == 1).all()
    assert (weights[:, 0] + weights[:, 5] == 2).all()
    assert (weights == metrics.resample_weights(strata, groups, resamples=50, seed=3)).all()


def test_seeds_are_averaged():
    scores, labels = scores_and_labels()
    other = np.random.default_rng(1).permutation(scores)
    found = metrics.bootstrap_interval("image_auroc", [scores, other], labels).value
    first, second = (metrics.image_auroc(s, labels).value or 0 for s in (scores, other))
    assert found == pytest.approx((first + second) / 2)


def test_paired_differences_know_what_single_intervals_do_not():
    scores, labels = scores_and_labels(300)
    better = scores + 0.3 * labels
    a = metrics.bootstrap_interval("image_auroc", better, labels)
    b = metrics.bootstrap_interval("image_auroc", scores, labels)
    difference = metrics.paired_bootstrap("image_auroc", better, scores, labels)
    assert ends(difference)[1] == pytest.approx(ends(a)[1] - ends(b)[1])
    assert ends(a)[0] < ends(b)[2]
    assert ends(difference)[0] > 0
    nothing = metrics.paired_bootstrap("image_auroc", scores, [scores, scores], labels)
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)


def test_resampled_pixel_metrics_scatter_around_the_figure():
    maps, gt_masks = maps_and_masks(30, 64)
    histogram = PixelHistogram()
    for anomaly_map, gt_mask in zip(maps, gt_masks, strict=True):
        histogram.add(anomaly_map, gt_mask)
    itself = np.ones((1, 30), np.uint16)
    weights = metrics.resample_weights([g.any() for g in gt_masks], resamples=400)
    for metric in ("aupro", "pixel_auroc"):
        value = histogram.figure(metric).value
        assert histogram.distribution(metric, itself)[0] == pytest.approx(value, abs=2e-3)
        resampled = histogram.distribution(metric, weights)
        low, high = np.quantile(resampled, [0.025, 0.975])
        assert low < value < high


def test_a_resample_equals_the_figure_of_the_images_drawn():
    maps, gt_masks = maps_and_masks(6, 32)
    histogram = PixelHistogram()
    for anomaly_map, gt_mask in zip(maps, gt_masks, strict=True):
        histogram.add(anomaly_map, gt_mask)
    drawn = [0, 2, 2, 4, 5]
    weights = np.bincount(drawn, minlength=6)[None].astype(np.uint16)
    expected = exact_figure("aupro", [maps[n] for n in drawn], [gt_masks[n] for n in drawn]).value
    assert histogram.distribution("aupro", weights)[0] == pytest.approx(expected, abs=2e-3)


def test_a_thousand_resamples_of_three_hundred_images_take_less_than_a_second():
    scores, labels = scores_and_labels(300)
    start = time.process_time()
    metrics.bootstrap_interval("image_auroc", scores, labels, resamples=1000)
    assert time.process_time() - start < 1
