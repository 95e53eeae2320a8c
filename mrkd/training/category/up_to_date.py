"""Check whether a category is up to date by its listing: like make, without reading an image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from mrkd import storage
from mrkd.config import TrainConfig
from mrkd.data.datasets import Sample
from mrkd.errors import ConfigError
from mrkd.model.ensemble import model_of
from mrkd.model.mrkd import MODEL_VERSION
from mrkd.model.registry import promotions
from mrkd.model.teacher import teacher_of
from mrkd.training.category.result import CategoryResult


def good_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The samples that a training uses."""
    return [sample for sample in samples if sample.split == "train" and not sample.gt_label]


def inputs_of(config: TrainConfig, samples: Sequence[Sample], teacher_digest: str) -> str:
    """A hash over all that decides a category's version, files by name and ETag.

    Equal hashes mean equal versions; a copied or touched file changes the hash and not the version,
    which then costs reading the images, and nothing more. The config is the category's own
    (`TrainConfig.for_category`).
    """
    good = good_samples(samples)
    listing = sorted((one.image_uri, one.etag, one.group or "") for one in good)
    # Bytes that may not train, whatever their name: images in which a reviewer found a defect.
    listing += sorted(("defect", one.sha256, "") for one in samples if one.sha256 and one.gt_label)
    digest = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    made = promotions.version_of(
        config.model,
        config.train,
        data_fingerprint=digest,
        teacher_digest=teacher_digest,
        model_version=MODEL_VERSION,
        num_micro_batches=config.fleet.workers_per_category,
        roi={**config.roi.to_dict(), "etag": _roi_etag(config)},
    )
    return hashlib.sha256(f"{made} {config.train.micro_batch_size}".encode()).hexdigest()


def inputs_of_all(
    configs: Mapping[str, TrainConfig], samples: Mapping[str, Sequence[Sample]]
) -> dict[str, str]:
    """`inputs_of` of each category; every kind of network is built once, without its weights.

    Raises:
        ConfigError: a network does not have a level that its config names.
        TeacherError: a teacher's weights are missing.
    """
    digests: dict[str, str] = {}

    def digest(config: TrainConfig) -> str:
        model, seed = config.model, config.train.seed
        key = f"{seed} {model.digest()}"
        if key not in digests:
            teacher = teacher_of(model, seed=seed)
            with torch.device("meta"):
                model_of(model, teacher, seed=seed)
            digests[key] = teacher.digest
        return digests[key]

    return {name: inputs_of(one, samples[name], digest(one)) for name, one in configs.items()}


def work_of(config: TrainConfig, samples: Sequence[Sample]) -> float:
    """Pixels of a category's good images: a measure of its cost, next to its steps."""
    return len(good_samples(samples)) * float(config.model.image_size) ** 2


def steps_of(config: TrainConfig, samples: Sequence[Sample]) -> int:
    """About how many steps a student's training has at most: some images are held out."""
    fit, count = config.train, len(good_samples(samples))
    if not config.model.student or (config.model.cells and count < fit.min_images_for_student):
        return 0
    limit = fit.max_epochs * max(1, count // fit.batch_size)
    return min(fit.max_steps or limit, limit)


def standing(workspace: str, category: str, inputs: str) -> CategoryResult | None:
    """The result that these `inputs_of` had before, by one small read; None where there is none."""
    record = promotions.made_from(workspace, category, inputs)
    return None if record is None else replace(CategoryResult(**record), status="up_to_date")


def _roi_etag(config: TrainConfig) -> str:
    if not config.roi.mask:
        return ""
    entry = storage.stat(config.roi.mask)
    if entry is None:
        raise ConfigError(f"roi.mask {config.roi.mask!r} is not there: check the path")
    return entry.etag
