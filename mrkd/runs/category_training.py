"""Training of one category by a worker, alone or in a group, with a status to report to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mrkd.config import TrainConfig
from mrkd.data.datasets import Sample
from mrkd.runs.status import Status
from mrkd.training.category import CategoryResult, assist, train_category
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


def train_one(
    task: TrainingTask, group: ProcessGroup, publish: Callable[[Mapping[str, Any]], None]
) -> CategoryResult | None:
    """One worker's share of a training; on the first worker the result of the category.

    `publish` is called with the figures of every epoch, by every worker.
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

    work = train_category if is_first else assist
    return work(
        task.config,
        task.category,
        task.samples,
        report=report,
        checkpoints_uri=task.checkpoints_uri,
        group=group,
    )
