"""Fleet: one training for each category, within the executor's resources.

A category that is up to date is found by one small read, and nothing is started for it. The layout
of a fleet's folder: `mrkd/training/fleet_store.py`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import closing

from mrkd import reports, storage
from mrkd.config import TrainConfig
from mrkd.data.datasets import Sample
from mrkd.nights.reviews.training_samples import load_samples
from mrkd.run_summary import Summary, some_of
from mrkd.runs.category_training import TrainingTask
from mrkd.runs.executor import Executor, ExecutorChoice
from mrkd.runs.progress import FleetProgress
from mrkd.runs.recorded_run import RecordedRun, recorded_run
from mrkd.runs.resources import Resources, fleet_resources, groups_at_once
from mrkd.storage.thread_map import in_threads
from mrkd.training.category import (
    inputs_of_all,
    standing,
    steps_of,
    work_of,
)
from mrkd.training.cost_estimate import training_seconds
from mrkd.training.fleet_store import Fleet

log = logging.getLogger(__name__)

Samples = Mapping[str, Sequence[Sample]]


def run(config: TrainConfig, executor: ExecutorChoice) -> Summary:
    """Trains every category that is not up to date; one that fails does not end the others.

    The same call goes on where an earlier one ended. A signal (SIGTERM, SIGINT) ends this one with
    a summary.

    Raises:
        ConfigError: the data or a network do not exist, or the cluster lacks the resources; nothing
            was started.
        TeacherError: the teacher weights do not exist.
        StorageError: the workspace cannot be read or written.
    """
    samples = load_samples(config)
    configs = config.for_categories(list(samples))
    # Refuses what would fail in every category: missing weights, a missing level.
    inputs = inputs_of_all(configs, samples)
    fleet = Fleet(config, samples.notes)
    size = config.fleet.workers_per_category
    executor = executor.for_work(
        lambda: training_seconds(config, samples) if size == 1 else math.inf
    )
    with (
        recorded_run("train", config.run, fleet.uri) as record,
        executor.connected("train_each", group_size=size),
    ):
        resources = fleet_resources(executor.nodes, config, len(samples) * size)
        if size > 1:
            groups_at_once(executor.nodes, resources, size)  # refuses what can never be held
        # Categories that an earlier, forced start of this fleet has trained are done.
        fleet.records |= fleet.begin()
        for name, reason in samples.failed.items():
            fleet.end(name, {"status": "failed", "attempts": 0, "error": reason, "traceback": ""})
        if not config.fleet.force:
            _find_up_to_date(fleet, inputs)
        work = {
            name: work_of(configs[name], samples[name])
            for name in samples
            if name not in fleet.records
        }
        # The largest first, so that a long one is not left alone at the end.
        todo = sorted(work, key=lambda name: (-work[name], name))
        status = executor.new_status()
        tasks = {
            name: TrainingTask(config, name, samples[name], fleet.checkpoints_uri(name), status)
            for name in todo
        }
        progress = FleetProgress(
            config.run,
            work,
            {name: steps_of(configs[name], samples[name]) for name in todo},
            num_up_to_date=len(fleet.records),
            status=status,
            gauge=executor.gauge,
        )
        progress.every_s = config.fleet.progress_s
        try:
            with progress.published():
                _train_each(fleet, executor, tasks, resources, progress)
        except KeyboardInterrupt:
            _store_stopped(fleet, todo, progress)
        return _close(fleet, record)


def _find_up_to_date(fleet: Fleet, inputs: Mapping[str, str]) -> None:
    """Ends the categories for which the inputs have a stored version."""
    workspace = fleet.config.workspace
    results = in_threads(lambda name: standing(workspace, name, inputs[name]), inputs)
    for name, result in zip(inputs, results, strict=True):
        if result:
            fleet.end(name, {**result.to_dict(), "attempts": 0})


def _train_each(
    fleet: Fleet,
    executor: Executor,
    tasks: Mapping[str, TrainingTask],
    resources: Resources,
    progress: FleetProgress,
) -> None:
    """Trains the categories, and stores the end of each at once."""
    options = fleet.config.fleet
    lost: dict[str, list[str]] = {}
    # Closed also where the caller keeps an error, and with it this frame.
    with closing(
        executor.train_each(
            tasks,
            resources,
            group_size=options.workers_per_category,
            max_failures=options.max_failures,
            backoff_s=options.backoff_s,
        )
    ) as attempts:
        for attempt in attempts:
            name = attempt.category
            if attempt.lost:
                lost.setdefault(name, []).append(attempt.lost)
            if attempt.error:
                uri = fleet.store_traceback(name, attempt.number, attempt.traceback)
                end = {"status": "failed", "error": attempt.error, "traceback": uri}
            else:
                end = attempt.result.to_dict()
                if resources.gpus:
                    end["gpu_seconds"] = attempt.result.gpu_seconds()
            if attempt.last:
                used = {
                    "cpus": resources.cpus,
                    "gpus": resources.gpus,
                    "attempts": attempt.number,
                    "lost": lost.get(name, []),
                }
                fleet.end(name, used | end)
                progress.end(name, end["status"])


def _store_stopped(fleet: Fleet, todo: Sequence[str], progress: FleetProgress) -> None:
    """Stores how far each category was that has not ended; its checkpoint remains."""
    under_way = progress.under_way()
    for name in todo:
        if name in fleet.records:
            continue
        reason = "the fleet was stopped before it was started"
        if name in under_way:
            epoch = under_way[name].get("epoch")
            where = "before its first epoch ended" if epoch is None else f"after epoch {epoch}"
            reason = f"the fleet was stopped {where} of its training"
        reason += ": start the fleet again to go on"
        fleet.end(name, {"status": "not_started", "attempts": 0, "reason": reason})


def _close(fleet: Fleet, record: RecordedRun) -> Summary:
    """Writes the page and the summary."""
    counts, failures = fleet.counts, fleet.failures
    stopped = counts["not_started"]
    fleet.close("stopped" if stopped else "done")
    too_many = len(failures) > fleet.config.fleet.max_failed_share * counts["categories"]
    reasons = [f"category {name}: {error}" for name, error in failures.items()]
    reasons += some_of(fleet.doubts)
    if stopped:
        reasons.insert(0, f"{stopped} categories are not done: start the fleet again to go on")
    return record.end(
        1 if stopped else 3 if too_many else 0,
        counts=counts,
        uris={
            "models": storage.join(fleet.config.workspace, "models"),
            "categories": storage.join(fleet.uri, "categories"),
            "report": reports.write_page(fleet.uri),
        },
        reasons=reasons,
    )
