"""Training of one category by a worker, alone or in a group, with a status to report to."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mrkd.config import TrainConfig
from mrkd.data.datasets import Sample
from mrkd.data.preprocess import Preprocessor
from mrkd.runs.status import Status
from mrkd.training.category import CategoryResult, assist, good_samples, train_category
from mrkd.training.category.split_images import ReadImages, read_images
from mrkd.training.fit.process_group import ProcessGroup

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingTask:
    """One category to train, with the status that its first worker reports to."""

    config: TrainConfig
    category: str
    samples: Sequence[Sample]
    checkpoints_uri: str
    status: Status


def read_one(task: TrainingTask) -> ReadImages:
    """The good images of a category, read and decoded apart from the device that trains on them."""
    model = task.config.for_category(task.category).model
    return read_images(task.samples, Preprocessor.of(model))


def pixel_bytes(task: TrainingTask) -> int:
    """Bytes of the pixels that `read_one` gives; of tiles, a bound that no memory holds."""
    model = task.config.for_category(task.category).model
    if model.tiles:
        return sys.maxsize
    return len(good_samples(task.samples)) * 3 * model.image_size**2


def train_one(
    task: TrainingTask,
    group: ProcessGroup,
    publish: Callable[[Mapping[str, Any]], None],
    images: ReadImages | None = None,
) -> CategoryResult | None:
    """One worker's share of a training; on the first worker the result of the category.

    Args:
        task: the category.
        group: the workers that share it.
        publish: function that is called with the figures of every epoch, by every worker.
        images: its good images, where they were read before, for a training without a group.
    """
    is_first = group.rank == 0
    if is_first:
        task.status.report(task.category, {})

    def report(row: Mapping[str, Any]) -> None:
        if is_first:
            figures = " ".join(f"{name}={value:.6g}" for name, value in row.items())
            log.info("epoch_end category=%s %s", task.category, figures)
            task.status.report(task.category, row)
        publish(row)

    common: dict[str, Any] = {
        "report": report,
        "checkpoints_uri": task.checkpoints_uri,
        "group": group,
    }
    if not is_first:
        assist(task.config, task.category, task.samples, **common)
        return None
    return train_category(task.config, task.category, task.samples, images=images, **common)
