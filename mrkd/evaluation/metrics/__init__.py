"""Metrics of how well scores and maps separate good from anomalous: arrays in, intervals out.

Every metric is read off one kind of curve: the share of anomalous images (pixels, regions) found
against the share of good ones called, with a vertex at each distinct value. Where one class is
missing the metric is null with a reason, never 0 or 1.
"""

from mrkd.evaluation.metrics.bootstrap import Metric, Weights, resample_weights
from mrkd.evaluation.metrics.image import (
    IMAGE_METRICS,
    bootstrap_interval,
    image_auroc,
    image_distribution,
    one_class,
    paired_bootstrap,
)
from mrkd.evaluation.metrics.pixel import PixelHistogram, PixelMetric
from mrkd.evaluation.metrics.thresholds import (
    OperatingPoint,
    Rate,
    operating_points,
    rare_defects,
    reviewed_points,
)

__all__ = [
    "IMAGE_METRICS",
    "Metric",
    "OperatingPoint",
    "PixelHistogram",
    "PixelMetric",
    "Rate",
    "Weights",
    "bootstrap_interval",
    "image_auroc",
    "image_distribution",
    "one_class",
    "operating_points",
    "paired_bootstrap",
    "rare_defects",
    "resample_weights",
    "reviewed_points",
]
