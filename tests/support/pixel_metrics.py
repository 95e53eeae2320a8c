"""A pixel metric over all values of a few maps."""

from mrkd.evaluation.metrics import PixelHistogram


def exact_figure(metric, maps, gt_masks, fpr_limit=0.3):
    """A pixel metric without bins."""
    pixels = PixelHistogram(bins=None)
    for anomaly_map, gt_mask in zip(maps, gt_masks, strict=True):
        pixels.add(anomaly_map, gt_mask)
    return pixels.figure(metric, fpr_limit=fpr_limit)
