"""Nearest-neighbour baseline of a category, fitted to the images and sides of its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mrkd.config import TrainConfig
from mrkd.data.datasets import Sample
from mrkd.data.preprocess import Preprocessor
from mrkd.model import device
from mrkd.model.artefact import Calibration
from mrkd.model.feature_cache import TeacherFeatures
from mrkd.model.patch_knn import NearestNeighbour
from mrkd.model.teacher import teacher_of
from mrkd.training.category.calibrate import score_good
from mrkd.training.category.groups import groups_of, split_of
from mrkd.training.category.split_images import check_count, decode_good, read_good
from mrkd.training.category.up_to_date import good_samples


def fit_nearest(
    config: TrainConfig, samples: Sequence[Sample], *, features_folder: str = ""
) -> tuple[NearestNeighbour, Calibration]:
    """A memory of the training side, calibrated by the held-out side, on the device to score on.

    Args:
        config: configuration of the category, with its network's size, teacher and smoothing.
        samples: all images of the category.
        features_folder: folder for `TeacherFeatures`.

    Raises:
        CategoryError: too few images, or images that change meanwhile.
        MrkdError: any other error that a user can fix: storage, teacher.
    """
    network = replace(config.model, student=True, cells=False)
    good, unreadable = read_good(good_samples(samples))
    images = decode_good(good, Preprocessor.of(network))
    check_count(images.good, [*unreadable, *images.skipped])
    teacher = teacher_of(network, seed=config.train.seed)
    teacher.to(device.choose(config.train.device, "float32").device)
    features = TeacherFeatures(
        teacher,
        images.pixels[: images.num_squares],
        budget_bytes=config.train.cache_bytes,
        folder=features_folder,
    )
    split = split_of(images, groups_of(images, features), config.train, sided=True)
    train = features.of(images.squares_of(split.on("train")))
    fitted = NearestNeighbour(network, train, seed=config.train.seed)
    return fitted, score_good(fitted, images, split, config.train).calibration
