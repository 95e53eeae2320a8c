"""Ablation: trains and measures every variant of its tables on every category with every seed.

Each run trains as a fleet does, measures, and stores its figures; one that fails
does not end the others. The same call goes on where an earlier one ended: measured runs are kept,
and a training under way goes on from its checkpoint. The layout of the runs:
`mrkd/evaluation/ablation/store.py`. Beside them:

    evaluations/<run>/metrics.parquet      every figure with its interval (`schema.METRICS`)
                      differences.parquet  variants against the base of their table
                      operating.parquet    thresholds, and their error rates
                      tables.md            the tables as Markdown
                      study.json           the resolved config, the tables, the end of each run
                      report.html, summary.json
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from mrkd import reports, storage
from mrkd.config import EvalConfig
from mrkd.data import datasets
from mrkd.data.datasets import Listing, Sample
from mrkd.evaluation import protocols
from mrkd.evaluation.ablation import Run, Study, Variant, inputs_of, outcome, runs_of, tables_of
from mrkd.model.mrkd import MODEL_VERSION
from mrkd.run_summary import Summary, some_of
from mrkd.runs import shared_features
from mrkd.runs.evaluate import variant_run
from mrkd.runs.evaluate.variant_run import VariantTask
from mrkd.runs.executor import Executor, ExecutorChoice
from mrkd.runs.recorded_run import RecordedRun, recorded_run
from mrkd.runs.resources import fleet_resources
from mrkd.storage import schema
from mrkd.training.category import inputs_of_all
from mrkd.training.cost_estimate import training_seconds

log = logging.getLogger(__name__)

Samples = Mapping[str, Sequence[Sample]]


def run(config: EvalConfig, executor: ExecutorChoice) -> Summary:
    """Trains and measures the runs that have not ended, and writes the tables and the page.

    Raises:
        ConfigError: the data are not the protocol's, a model or its weights do not exist, or the
            cluster lacks the resources; nothing was started.
        TeacherError: the teacher weights do not exist.
        StoppedError: a signal ended it; the same command goes on.
        StorageError: the workspace cannot be read or written.
    """
    samples = datasets.load(config.data)
    protocols.check(config, samples)
    tables = tables_of(config)
    fitted = runs_of(config, tables)
    for one in fitted.values():
        # Refuses what would fail in every run of a variant: missing weights, a missing level.
        inputs_of_all(
            {name: one.training(config, name, config.train.seed) for name in samples}, samples
        )
    study = Study(config)
    times = len(fitted) * config.num_seeds
    base = config.base().with_values({"fleet.force": True})
    executor = executor.for_work(lambda: training_seconds(base, samples, times=times))
    with (
        recorded_run("evaluate", config.run, study.uri) as record,
        executor.connected(),
        shared_features.shared_folder(executor, study.uri),
    ):
        runs = _runs(config, executor, study, fitted, samples)
        found = outcome(study, tables, runs)
        for name in ("metrics", "differences", "operating"):
            table = schema.to_parquet(getattr(found, name))
            storage.write(storage.join(study.uri, f"{name}.parquet"), table)
        study.store(tables, runs, samples)
        return _close(config, study, runs, fitted, record, samples)


def _runs(
    config: EvalConfig,
    executor: Executor,
    study: Study,
    fitted: Mapping[str, Variant],
    samples: Samples,
) -> list[Run]:
    """Every run, ended, in the order of the plan; those that had ended before are read."""
    seeds = range(config.train.seed, config.train.seed + config.num_seeds)
    planned: list[str] = []
    ended: dict[str, Run] = {}
    tasks: dict[str, VariantTask] = {}
    num_runs = len(fitted) * len(samples) * config.num_seeds
    resources = fleet_resources(executor.nodes, config, num_runs)
    # A category's runs follow each other, so that its shared features can then be removed.
    for category, of_category in samples.items():
        for seed in seeds:
            for key, one in fitted.items():
                training = one.training(config, category, seed)
                inputs = inputs_of(config, training, of_category, model_version=MODEL_VERSION)
                before = study.get(key, category, seed)
                name = f"{category}/{key}-{seed}"
                planned.append(name)
                if before and before.inputs == inputs and not (before.error or config.fleet.force):
                    ended[name] = before
                    continue
                tasks[name] = VariantTask(
                    config,
                    one,
                    Run(key, category, seed, inputs),
                    of_category,
                    shared_features.folder_of(study.uri, category),
                )
    left = {name: sum(key.startswith(f"{name}/") for key in tasks) for name in samples}
    log.info("study_start runs=%d of=%d", len(tasks), len(tasks) + len(ended))
    # Closed also where the caller keeps an error, and with it this frame.
    with closing(
        executor.run_each(
            variant_run.work,
            {name: (task,) for name, task in tasks.items()},
            resources,
            max_failures=config.fleet.max_failures,
            backoff_s=config.fleet.backoff_s,
        )
    ) as attempts:
        for attempt in attempts:
            if not attempt.last:
                continue
            begun = tasks[attempt.category].run
            done: Run = attempt.result or replace(begun, error=attempt.error)
            if attempt.error:
                study.put(done)
            ended[attempt.category] = done
            left[done.category] -= 1
            log.info(
                "run_end category=%s arm=%s seed=%d seconds=%.0f left=%d error=%s",
                done.category,
                fitted[done.key].name,
                done.seed,
                done.seconds,
                sum(left.values()),
                done.error,
            )
            if not left[done.category]:
                folder = shared_features.folder_of(study.uri, done.category)
                executor.forget(folder, wait=False)
    return [ended[name] for name in planned]


def _close(
    config: EvalConfig,
    study: Study,
    runs: Sequence[Run],
    fitted: Mapping[str, Variant],
    record: RecordedRun,
    samples: Listing,
) -> Summary:
    """Writes the page and the summary."""
    failed = [one for one in runs if one.error]
    leaks = {one.category: len(one.leaks) for one in runs if one.leaks}
    num_errors, num_images = (
        sum(getattr(one, name) for one in runs) for name in ("num_errors", "num_images")
    )
    num_lost = len(samples.failed) * len(runs) // len(samples)
    too_many = (
        len(failed) + num_lost > config.max_failed_share * (len(runs) + num_lost)
        or num_errors > config.max_error_share * num_images
    )
    # Runs on one category judge the same images: their lines are equal.
    lines = [f"category {one.category}: {one.errors}" for one in runs if one.errors]
    lines += [
        f"category {one.category}: left out of the pixel figures, {line}"
        for one in runs
        for line in one.left_out
    ]
    return record.end(
        3 if too_many else 0,
        counts={
            "runs": len(runs),
            "failed": len(failed),
            "categories": len({one.category for one in runs}),
            **({"leaks": sum(leaks.values())} if config.check_leaks else {}),
        },
        uris={
            "metrics": storage.join(study.uri, "metrics.parquet"),
            "differences": storage.join(study.uri, "differences.parquet"),
            "tables": storage.join(study.uri, "tables.md"),
            "report": reports.write_page(study.uri),
        },
        reasons=[
            *(
                f"category {one.category}, {fitted[one.key].name}, seed {one.seed}: {one.error}"
                for one in failed
            ),
            *some_of(list(dict.fromkeys(lines))),
            *some_of(samples.reasons),
            *(
                f"category {name}: {count} of its images show a part that training saw: its "
                "figures promise too much"
                for name, count in sorted(leaks.items())
            ),
        ],
    )
