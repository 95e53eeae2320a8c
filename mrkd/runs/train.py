"""Fleet on Ray: one training for each category, within the cluster's resources.

A category is a Ray task in which Ray Train's local mode runs the loop, or one that waits for a
group of workers; README.md gives the reasons. A category that is up to date is found by one small
read and costs no task. The layout of a fleet's folder: `mrkd/training/fleet_store.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mrkd import reports, storage
from mrkd.config import TrainConfig
from mrkd.data.datasets import Sample
from mrkd.nights.reviews.training_samples import load_samples
from mrkd.run_summary import Summary, some_of
from mrkd.runs.on_ray import cluster, status_actor, workers
from mrkd.runs.on_ray.category_tasks import run_each
from mrkd.runs.on_ray.cluster import Resources
from mrkd.runs.on_ray.workers import TrainingTask
from mrkd.runs.progress import FleetProgress
from mrkd.runs.recorded_run import RecordedRun, recorded_run
from mrkd.storage.thread_map import in_threads
from mrkd.training.category import inputs_of_all, standing, steps_of, work_of
from mrkd.training.fleet_store import Fleet

Samples = Mapping[str, Sequence[Sample]]


def run(config: TrainConfig) -> Summary:
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
    fleet = Fleet(config)
    # Ray Train learns from the dashboard that a group's controller crashed, and frees its workers.
    in_groups = config.fleet.workers_per_category > 1
    with (
        recorded_run("train", config.run, fleet.uri) as record,
        cluster.connect(dashboard=in_groups),
    ):
        size, at_once = config.fleet.workers_per_category, None
        resources = cluster.fleet_resources(config, len(samples) * size)
        if in_groups:
            # A group's workers are not part of the task that waits for them: Ray cannot count them.
            at_once = cluster.groups_at_once(cluster.nodes(), resources, size)
        # Categories that an earlier, forced start of this fleet has trained are done.
        fleet.records |= fleet.begin()
        if not config.fleet.force:
            _find_up_to_date(fleet, inputs)
        work = {
            name: work_of(configs[name], samples[name])
            for name in samples
            if name not in fleet.records
        }
        # The largest first, so that a long one is not left alone at the end.
        todo = sorted(work, key=lambda name: (-work[name], name))
        status = status_actor.start()
        tasks = {
            name: TrainingTask(
                config, name, samples[name], fleet.checkpoints_uri(name), resources, status
            )
            for name in todo
        }
        progress = FleetProgress(
            config.run,
            work,
            {name: steps_of(configs[name], samples[name]) for name in todo},
            num_up_to_date=len(fleet.records),
            status=status,
        )
        progress.every_s = config.fleet.progress_s
        try:
            with progress.published():
                _train_each(fleet, tasks, resources, at_once, progress)
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
    tasks: Mapping[str, TrainingTask],
    resources: Resources,
    at_once: int | None,
    progress: FleetProgress,
) -> None:
    """Trains the categories, and stores the end of each at once."""
    options = fleet.config.fleet
    attempts = run_each(
        workers.train if at_once is None else workers.train_in_group,
        {name: (task,) for name, task in tasks.items()},
        resources if at_once is None else Resources(0.0),
        max_failures=options.max_failures,
        backoff_s=options.backoff_s,
        at_once=at_once,
        environment=None if at_once is None else workers.group_environment(),
    )
    for attempt in attempts:
        name = attempt.category
        if attempt.error:
            uri = fleet.store_traceback(name, attempt.number, attempt.traceback)
            end = {"status": "failed", "error": attempt.error, "traceback": uri}
        else:
            end = attempt.result.to_dict()
        if attempt.last:
            used = {"cpus": resources.cpus, "gpus": resources.gpus, "attempts": attempt.number}
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
