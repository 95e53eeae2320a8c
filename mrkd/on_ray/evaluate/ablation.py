"""An evaluation that trains: every arm of its tables on every category with every seed.

Each is a Ray task that trains as a fleet does, measures, and stores what it found; one that fails
keeps no other from it. The same call goes on where an earlier one was ended: what has been found
stays, a training under way goes on from its checkpoint. What is left behind:
`mrkd/evaluation/ablation/store.py`, and beside the runs

    evaluations/<run>/metrics.parquet      every figure with its interval (`schema.METRICS`)
                      differences.parquet  arms against the base of their table
                      operating.parquet    thresholds, and what they would do
                      tables.md            the tables as Markdown
                      study.json           the resolved config, tables, how each run ended
                      report.html, summary.json
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mrkd import reports, storage
from mrkd.config import EvalConfig
from mrkd.data import datasets
from mrkd.data.datasets import Sample
from mrkd.evaluation import protocols
from mrkd.evaluation.ablation import Run, Study, Variant, inputs_of, outcome, runs_of, tables_of
from mrkd.model.mrkd import MODEL_VERSION
from mrkd.on_ray import cluster, shared_features
from mrkd.on_ray.category_tasks import run_each
from mrkd.on_ray.evaluate import variant_run
from mrkd.on_ray.evaluate.variant_run import VariantTask
from mrkd.on_ray.recorded_run import RecordedRun
from mrkd.run_summary import Summary
from mrkd.storage import schema
from mrkd.training.category import inputs_of_all

log = logging.getLogger(__name__)

Samples = Mapping[str, Sequence[Sample]]


def run(config: EvalConfig) -> Summary:
    """Trains and measures whatever has not been, and writes the tables and the page.

    Raises:
        ConfigError: the data are not the protocol's, or a model, its weights or the cluster cannot
            be had; nothing was started.
        TeacherError: there are no such teacher weights.
        StorageError: the workspace cannot be read or written.
    """
    samples = datasets.load(config.data)
    protocols.check(config, samples)
    tables = tables_of(config)
    fitted = runs_of(config, tables)
    for one in fitted.values():
        # Refuses what would fail in every run of a kind: no such weights, no such level.
        inputs_of_all(
            {name: one.training(config, name, config.train.seed) for name in samples}, samples
        )
    study = Study(config)
    with RecordedRun("evaluate", config.run, study.uri) as verdict, cluster.connect():
        storage.delete(storage.join(study.uri, "summary.json"))
        try:
            with cluster.stoppable():
                runs = _runs(config, study, fitted, samples)
        except KeyboardInterrupt:
            reason = "the evaluation was stopped: start it again to go on"
            return verdict.end(1, reasons=[reason])
        finally:
            shared_features.forget(shared_features.folder_of(study.uri))
        found = outcome(study, tables, runs)
        for name in ("metrics", "differences", "operating"):
            table = schema.to_parquet(getattr(found, name))
            storage.write(storage.join(study.uri, f"{name}.parquet"), table)
        study.store(tables, runs, samples)
        return _close(config, study, runs, fitted, verdict)


def _runs(
    config: EvalConfig, study: Study, fitted: Mapping[str, Variant], samples: Samples
) -> list[Run]:
    """Every run, ended, in the order of the plan; those that had ended before are read."""
    seeds = range(config.train.seed, config.train.seed + config.num_seeds)
    planned: list[str] = []
    ended: dict[str, Run] = {}
    orders: dict[str, tuple[VariantTask]] = {}
    ask = cluster.worker_ask(
        cluster.nodes(),
        cpus=config.fleet.cpus_per_worker,
        gpus=config.fleet.gpus_per_worker,
        device=config.train.device,
        num_workers=len(fitted) * len(samples) * config.num_seeds,
    )
    # A category's runs follow each other, so that what their teachers say of it is needed no
    # longer than they last.
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
                order = VariantTask(
                    config,
                    one,
                    Run(key, category, seed, inputs),
                    of_category,
                    ask,
                    shared_features.folder_of(study.uri, category),
                )
                orders[name] = (order,)
    left = {name: sum(key.startswith(f"{name}/") for key in orders) for name in samples}
    log.info("study_start runs=%d of=%d", len(orders), len(orders) + len(ended))
    attempts = run_each(
        variant_run.work,
        orders,
        ask,
        max_failures=config.fleet.max_failures,
        backoff_s=config.fleet.backoff_s,
    )
    for attempt in attempts:
        if not attempt.last:
            continue
        begun = orders[attempt.category][0].run
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
            shared_features.forget(folder, wait_s=0)
    return [ended[name] for name in planned]


def _close(
    config: EvalConfig,
    study: Study,
    runs: Sequence[Run],
    fitted: Mapping[str, Variant],
    verdict: RecordedRun,
) -> Summary:
    """The page and the verdict."""
    failed = [one for one in runs if one.error]
    leaks = {one.category: len(one.leaks) for one in runs if one.leaks}
    return verdict.end(
        3 if len(failed) > config.max_failed_share * len(runs) else 0,
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
            *(
                f"category {name}: {count} of its images show a part that training saw: its "
                "figures promise too much"
                for name, count in sorted(leaks.items())
            ),
        ],
    )
