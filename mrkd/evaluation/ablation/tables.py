"""Rows of a study's tables, from its runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from mrkd.evaluation.ablation.statistics import difference, mean, words
from mrkd.evaluation.ablation.store import Run, Study
from mrkd.evaluation.ablation.variants import Table, Variant
from mrkd.evaluation.category_metrics import MEAN
from mrkd.evaluation.metrics import Metric
from mrkd.evaluation.threshold_rows import operating_rows, rare_rows
from mrkd.storage import schema

HEADLINES = (
    ("image_auroc", None),
    ("pixel_auroc", None),
    ("pixel_auroc", MEAN),
    ("aupro", None),
    ("aupro", MEAN),
)
"""Metric and defect of the figures that arms are compared by."""

Name = tuple[str, str | None]
Figures = dict[Name, Metric]
Pair = tuple[Metric, Metric]


@dataclass(frozen=True)
class Outcome:
    """Tables of a study.

    Args:
        metrics: rows of `schema.METRICS`; figures with few defects are of `operating`'s runs.
        differences: rows of `schema.DIFFERENCES`.
        operating: rows of `schema.OPERATING`, of the first table's base with the first seed.
    """

    metrics: pa.Table
    differences: pa.Table
    operating: pa.Table


class RunFigures:
    """The figures of the runs of a study that have ended without an error.

    Args:
        study: folder of the study.
        runs: runs of the study.
    """

    def __init__(self, study: Study, runs: Sequence[Run]) -> None:
        self.study, self._config = study, study.config
        self.runs = {(one.key, one.category, one.seed): one for one in runs if not one.error}
        self._figures = {key: _read(study.figures(run)) for key, run in self.runs.items()}
        self.seeds = sorted({seed for _, _, seed in self.runs})
        self.categories = sorted({category for _, category, _ in self.runs})

    def of(self, arm: Variant, category: str) -> list[tuple[Run, Figures]]:
        """The runs of an arm on a category, by seed."""
        keys = [(arm.key(self._config), category, seed) for seed in self.seeds]
        return [(self.runs[key], self._figures[key]) for key in keys if key in self.runs]


def outcome(study: Study, tables: Sequence[Table], runs: Sequence[Run]) -> Outcome:
    """The rows of all tables.

    Args:
        study: folder of the study.
        tables: tables of the study.
        runs: runs that have ended.
    """
    found = RunFigures(study, runs)
    metrics = [row for table in tables for row in _metrics(found, table)]
    differences = [row for table in tables for row in _differences(found, table)]
    points = list[dict[str, Any]]()
    shown = tables[0].base_arm
    for category in found.categories:
        for run, _ in found.of(shown, category)[:1]:
            scores = study.scores(run)
            points += operating_rows(study.config, category, scores, run.model["threshold"])
            own = _own(tables[0], shown, run)
            metrics += [own | row for row in rare_rows(study.config, scores)]
    return Outcome(
        pa.Table.from_pylist(metrics, schema=schema.METRICS),
        pa.Table.from_pylist(differences, schema=schema.DIFFERENCES),
        pa.Table.from_pylist(points, schema=schema.OPERATING),
    )


def _read(table: pa.Table) -> Figures:
    draws = table["draws"]
    rows = table.drop_columns(["draws"]).to_pylist()
    return {
        (row["metric"], row["defect"]): Metric(
            row["value"], row["low"], row["high"], row["reason"], np.asarray(draws[n].values)
        )
        for n, row in enumerate(rows)
    }


def _metrics(found: RunFigures, table: Table) -> Iterator[dict[str, Any]]:
    for arm in table.arms:
        common = {"study": table.name, "arm": arm.name}
        means: dict[Name, list[Metric]] = {}
        for category in found.categories:
            runs = found.of(arm, category)
            for run, figures in runs:
                own = _own(table, arm, run)
                yield from (_row(own, name, one) for name, one in figures.items())
            for name in dict.fromkeys(name for _, figures in runs for name in figures):
                one = mean([figures[name] for _, figures in runs if name in figures])
                means.setdefault(name, []).append(one)
                yield _row({**common, "category": category}, name, one)
        if len(found.categories) > 1:
            # Kinds of defects differ between categories.
            whole = {n: ms for n, ms in means.items() if len(ms) == len(found.categories)}
            yield from (
                _row(common, n, mean(ms)) for n, ms in whole.items() if n[1] in (None, MEAN)
            )


def _own(table: Table, arm: Variant, run: Run) -> dict[str, Any]:
    """Columns that all figures of one run share."""
    return {
        "study": table.name,
        "arm": arm.name,
        "category": run.category,
        "seed": run.seed,
        "model_version": run.model["model_version"] or None,
        "config_digest": run.key,
    }


def _row(common: dict[str, Any], name: Name, figure: Metric) -> dict[str, Any]:
    return {**common, "metric": name[0], "defect": name[1], **figure.columns}


def _differences(found: RunFigures, table: Table) -> Iterator[dict[str, Any]]:
    base = table.base_arm
    for arm in table.arms:
        if arm is base:
            continue
        for metric, defect in HEADLINES:
            by_category = {
                category: _pairs(found, arm, base, category, (metric, defect))
                for category in found.categories
            }
            rows: dict[str | None, list[Pair]] = {
                category: list(pairs.values()) for category, pairs in by_category.items()
            }
            if len(rows) > 1:
                shared = set.intersection(*(set(pairs) for pairs in by_category.values()))
                for seed in sorted(shared):
                    mine, its = zip(*(pairs[seed] for pairs in by_category.values()), strict=True)
                    rows.setdefault(None, []).append((mean(mine), mean(its)))
            for where, pairs in rows.items():
                if pairs:
                    yield {
                        "study": table.name,
                        "arm": arm.name,
                        "base": base.name,
                        "category": where,
                        "metric": metric,
                        "defect": defect,
                        **_difference(pairs),
                    }


def _pairs(
    found: RunFigures, arm: Variant, base: Variant, category: str, name: Name
) -> dict[int, Pair]:
    """A figure of an arm and its base's by seed, for the seeds with which both have it."""
    theirs = {run.seed: (run, figures) for run, figures in found.of(base, category)}
    pairs = dict[int, Pair]()
    for run, figures in found.of(arm, category):
        its_run, its_figures = theirs.get(run.seed, (run, {}))
        if name in figures and name in its_figures:
            mine = figures[name]
            if run.images != its_run.images:
                # Draws of other images have no pairs, and so no interval.
                mine = replace(mine, draws=np.zeros(0))
            pairs[run.seed] = mine, its_figures[name]
    return pairs


def _difference(pairs: Sequence[Pair]) -> dict[str, Any]:
    mine, its = zip(*pairs, strict=True)
    one = difference(mine, its)
    by_seed = [m.value - i.value for m, i in pairs if m.value is not None and i.value is not None]
    return {
        "value": one.value,
        "low": one.low,
        "high": one.high,
        "by_seed": by_seed,
        "words": words(one, by_seed),
    }
