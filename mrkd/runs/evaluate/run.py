"""Evaluation of a workspace's champions on labelled images, category by category.

    evaluations/<run>/scores.parquet   one row an image (`evaluate_model.LABELLED`)
                      metrics.parquet  every figure with its interval (`schema.METRICS`)
                      operating.parquet  thresholds and their error rates (`schema.OPERATING`)
                      leaks.parquet    images of one part on both sides, with `check_leaks`
                      evaluation.json  the resolved config; each category's model, or its failure
                      report.html      the page
                      summary.json     the summary

A category that cannot be measured is stored with its reason.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from mrkd import reports, storage
from mrkd.config import EvalConfig
from mrkd.data import datasets
from mrkd.evaluation.evaluate_model import LABELLED, Evaluation, measure_category
from mrkd.evaluation.threshold_rows import operating_rows, rare_rows
from mrkd.nights.cost_estimate import scoring_seconds
from mrkd.run_summary import Summary, now, some_of
from mrkd.runs.evaluate import ablation
from mrkd.runs.executor import ExecutorChoice
from mrkd.runs.recorded_run import recorded_run
from mrkd.runs.resources import worker_resources
from mrkd.runs.score import check_roots
from mrkd.storage import schema

log = logging.getLogger(__name__)

LEAKS = pa.schema(
    [
        pa.field("category", pa.string(), nullable=False),
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("training_uri", pa.string(), nullable=False),
        pa.field("similarity", pa.float64(), nullable=False),
    ]
)

_MAX_FAILURES = 1
"""Number of further starts of a category after its worker crashed."""


def run(config: EvalConfig, executor: ExecutorChoice) -> Summary:
    """Measures every category; one that cannot be measured does not end the others.

    With a protocol the models are trained first: `ablation.run`.

    Raises:
        ConfigError: the images or every model are missing, or the cluster lacks the resources;
            nothing was started.
        StoppedError: a signal ended it.
        StorageError: the workspace cannot be read or written.
    """
    if config.protocol != "champions":
        return ablation.run(config, executor)
    samples = datasets.load(config.data)
    check_roots(config.workspace, config.data.root)
    folder = storage.join(config.workspace, "evaluations", config.run)
    counts = {name: len(of_category) for name, of_category in samples.items()}
    executor = executor.for_work(lambda: scoring_seconds(config, counts))
    measured: dict[str, Evaluation] = {}
    failed: dict[str, str] = {}
    with recorded_run("evaluate", config.run, folder) as record, executor.connected():
        resources = worker_resources(
            executor.nodes,
            cpus=0,
            gpus=config.pool.gpus_per_scorer,
            device=config.pool.device,
            num_workers=len(samples),
            labels=config.pool.node_labels,
        )
        arguments = {name: (config, name, of_category) for name, of_category in samples.items()}
        for attempt in executor.run_each(
            measure_category, arguments, resources, max_failures=_MAX_FAILURES
        ):
            if not attempt.error:
                measured[attempt.category] = attempt.result
            elif attempt.last:
                lines = attempt.error, *samples.notes.get(attempt.category, ())
                failed[attempt.category] = "; ".join(lines)
        failed |= samples.failed
        _store(folder, config, measured, failed)
        num_images = sum(one.scores.num_rows for one in measured.values())
        num_errors = sum(one.num_errors for one in measured.values())
        leaks = {name: one.leaks for name, one in measured.items() if one.leaks}
        for name, found in leaks.items():
            log.warning("leaks category=%s images=%d first=%s", name, len(found), found[0])
        num_categories = len(samples) + len(samples.failed)
        too_many = (
            len(failed) > config.max_failed_share * num_categories
            or num_errors > config.max_error_share * num_images
        )
        return record.end(
            3 if too_many else 0,
            counts={
                "categories": num_categories,
                "failed": len(failed),
                "images": num_images,
                "errors": num_errors,
                **({"leaks": sum(map(len, leaks.values()))} if config.check_leaks else {}),
            },
            uris={
                "metrics": storage.join(folder, "metrics.parquet"),
                "scores": storage.join(folder, "scores.parquet"),
                "report": reports.write_page(folder),
            },
            reasons=[
                *(f"category {name}: {error}" for name, error in sorted(failed.items())),
                *(
                    f"category {n}: {one.errors}"
                    for n, one in sorted(measured.items())
                    if one.errors
                ),
                *some_of(
                    [
                        f"category {name}: left out of the pixel figures, {line}"
                        for name, one in sorted(measured.items())
                        for line in one.left_out
                    ]
                ),
                *some_of(
                    [
                        f"category {name}: {line}"
                        for name in sorted(measured)
                        for line in samples.notes.get(name, ())
                    ]
                ),
                *(
                    f"category {name}: {len(found)} of its images "
                    f"{'show' if len(found) > 1 else 'shows'} a part that training saw, see "
                    "leaks.parquet: its figures promise too much"
                    for name, found in sorted(leaks.items())
                ),
            ],
        )


def _store(
    folder: str, config: EvalConfig, measured: dict[str, Evaluation], failed: dict[str, str]
) -> None:
    in_order = [measured[name] for name in sorted(measured)]
    scores = pa.concat_tables([LABELLED.empty_table(), *(one.scores for one in in_order)])
    scores = scores.replace_schema_metadata({"scored_at": now()})
    rows, points = list[dict[str, Any]](), list[dict[str, Any]]()
    for name in sorted(measured):
        one, model = measured[name], measured[name].model
        own = {"category": name, "seed": model["seed"], "model_version": model["model_version"]}
        rows += one.metrics.drop_columns(["draws"]).to_pylist()
        rows += [row | own for row in rare_rows(config, one.scores)]
        points += operating_rows(config, name, one.scores, model["threshold"])
    metrics = pa.Table.from_pylist(
        [row | {"config_digest": measured[row["category"]].model["config_digest"]} for row in rows],
        schema=schema.METRICS,
    )
    operating = pa.Table.from_pylist(points, schema=schema.OPERATING)
    categories: dict[str, Any] = {
        name: {"status": "done", "reason": "", "left_out": list(one.left_out), **one.model}
        for name, one in measured.items()
    }
    categories |= {name: {"status": "failed", "reason": reason} for name, reason in failed.items()}
    record = {
        "schema": 2,
        "run": config.run,
        "config": config.to_dict(),
        "categories": dict(sorted(categories.items())),
    }
    tables = {"scores": scores, "metrics": metrics, "operating": operating}
    if config.check_leaks:
        leaks = [
            {"category": name, **asdict(leak)}
            for name in sorted(measured)
            for leak in measured[name].leaks
        ]
        tables["leaks"] = pa.Table.from_pylist(leaks, schema=LEAKS)
    for name, table in tables.items():
        storage.write(storage.join(folder, f"{name}.parquet"), schema.to_parquet(table))
    storage.write_json(storage.join(folder, "evaluation.json"), record)
