"""Pixel metrics of more images than memory would hold values of."""

import tracemalloc

import numpy as np
import pytest

from mrkd.evaluation import metrics
from mrkd.evaluation.metrics import PixelHistogram, pixel

METRICS = ("aupro", "pixel_auroc")


def parts(num, side=64, seed=0):
    """Maps whose levels differ, and masks, of every third image with one or two defects."""
    rng = np.random.default_rng(seed)
    for n in range(num):
        anomaly_map = (rng.gamma(3, 1, (side, side)) * rng.uniform(0.7, 1.4)).astype(np.float32)
        gt_mask = np.zeros((side, side), bool)
        for _ in range(rng.integers(1, 3) if n % 3 == 0 else 0):
            y, x = rng.integers(0, side // 2, 2)
            h, w = rng.integers(2, side // 2, 2)
            gt_mask[y : y + h, x : x + w] = True
        anomaly_map[gt_mask] += rng.gamma(2, 2)
        yield anomaly_map, gt_mask


def filled(images, bins=4096, **budget):
    histogram = PixelHistogram(bins, **budget)
    for anomaly_map, gt_mask in images:
        histogram.add(anomaly_map, gt_mask)
    return histogram


def test_memory_stays_within_the_budget_and_a_little_for_each_image():
    filled(parts(1))  # What it imports is no part of it.
    tracemalloc.start()
    try:
        histogram = filled(parts(300), kept_bytes=2**19)
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 5 MB of values came in. An image is some objects of Python besides, less than 1 KB.
    assert len(histogram) == 300
    assert held < 2**19 + 300 * 1000
    assert most < 2 * 2**19 + 300 * 1000


def test_within_the_budget_nothing_is_thinned():
    budget = sum(anomaly_map.nbytes for anomaly_map, _ in parts(20))
    free, just = filled(parts(20)), filled(parts(20), kept_bytes=budget)
    exact = filled(parts(20), bins=None, kept_bytes=1)
    for metric in METRICS:
        assert just.figure(metric) == free.figure(metric) == exact.figure(metric)


def test_figures_stay_close_to_the_exact_ones_however_often_bins_are_thinned():
    images = list(parts(300))
    exact = filled(images, bins=None)
    # From the start and the end, where images were thinned several times and once.
    some = [n for n in range(300) if n < 75 or n >= 225]
    # 1365, 455 and 151 bins in the end.
    for kept_bytes in (2_000_000, 1_000_000, 300_000):
        bounded = filled(images, kept_bytes=kept_bytes)
        for metric in METRICS:
            for chosen in (None, some):
                value = exact.figure(metric, chosen).value
                assert bounded.figure(metric, chosen).value == pytest.approx(value, abs=1e-3)


def test_every_pixel_counts_alike_when_large_and_small_images_are_thinned():
    rng = np.random.default_rng(1)
    # Good pixels lie below all defects or above: the metric is the share of those below.
    sides = rng.choice([8, 20, 70, 128], 60)
    levels = rng.choice([0.0, 2.0], 60)
    images = [
        (np.full((side, side), level, np.float32), np.zeros((side, side), bool))
        for side, level in zip(sides, levels, strict=True)
    ]
    images.append((np.ones((32, 32), np.float32), np.ones((32, 32), bool)))
    bounded = filled(images, kept_bytes=10_000)
    expected = (sides**2)[levels == 0].sum() / (sides**2).sum()
    assert bounded.figure("pixel_auroc").value == pytest.approx(expected, abs=1e-12)
    itself = np.ones((1, 61), np.uint16)
    assert bounded.distribution("pixel_auroc", itself)[0] == pytest.approx(expected, abs=1e-6)


def test_regions_count_alike_when_large_ones_are_thinned():
    gt_mask = np.zeros((64, 64), bool)
    gt_mask[0, 0] = gt_mask[2:34, 2:34] = True
    anomaly_map = np.ones((64, 64), np.float32)
    anomaly_map[0, 0], anomaly_map[2:34, 2:34] = 2, 0
    bounded = filled([(anomaly_map, gt_mask)] * 20, kept_bytes=10_000)
    assert bounded.figure("aupro").value == pytest.approx(0.5, abs=1e-12)
    assert bounded.figure("pixel_auroc").value == pytest.approx(1 / 1025, abs=1e-12)


def test_a_curve_with_fewer_vertices_than_defective_pixels_is_as_close(monkeypatch):
    images = list(parts(60))
    exact = filled(images, bins=None)
    monkeypatch.setattr(pixel, "_VERTICES", 1000)
    bounded = filled(images)
    for metric in METRICS:
        value = exact.figure(metric).value
        assert bounded.figure(metric).value == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_intervals_of_many_images_are_those_of_all_at_once(metric, monkeypatch):
    images = list(parts(100))
    weights = metrics.resample_weights([g.any() for _, g in images], resamples=200)
    some = np.flatnonzero(np.arange(100) % 7)
    whole = filled(images)
    at_once = whole.distribution(metric, weights)
    figure, at_once_of_some = whole.resampled(metric, some, weights)
    monkeypatch.setattr(pixel, "_CHUNK", 16)
    pieces = filled(images)
    assert pieces.distribution(metric, weights) == pytest.approx(at_once, abs=1e-6)
    found, of_some = pieces.resampled(metric, some, weights)
    assert found == figure
    assert of_some == pytest.approx(at_once_of_some, abs=1e-6)


def test_intervals_of_thinned_images_are_those_of_exact_ones():
    images = list(parts(300))
    weights = metrics.resample_weights([g.any() for _, g in images], resamples=300)
    exact, bounded = filled(images, bins=None), filled(images, kept_bytes=200_000)
    for metric in METRICS:
        (low, high), found = (
            np.quantile(histogram.resampled(metric, np.arange(300), weights)[1], [0.025, 0.975])
            for histogram in (exact, bounded)
        )
        assert found == pytest.approx([low, high], abs=0.02 * (high - low))
