import numpy as np

from mrkd.evaluation.metrics import PixelHistogram


def test_pixels_outside_a_region_are_in_no_pixel_metric():
    rng = np.random.default_rng(3)
    anomaly_map, gt_mask = rng.random((12, 12)), np.zeros((12, 12), bool)
    gt_mask[2:5, 2:5] = True
    inside = np.zeros((12, 12), bool)
    inside[:, :6] = True
    cut, whole = PixelHistogram(), PixelHistogram()
    cut.add(anomaly_map[:, :6], gt_mask[:, :6])
    # A defect and a hot fixture outside.
    gt_mask[8:10, 8:10], anomaly_map[:, 9:] = True, 100
    whole.add(anomaly_map, gt_mask, inside)
    assert whole.figure("pixel_auroc") == cut.figure("pixel_auroc")
    assert whole.figure("aupro") == cut.figure("aupro")
