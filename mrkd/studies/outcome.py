"""From the runs of a study to the rows of its tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from mrkd import schema
from mrkd.evaluation import MEAN
from mrkd.metrics import Metric
from mrkd.operating import operating_rows, rare_rows
from mrkd.studies.arms import Arm, Table
from mrkd.studies.folder import Run, Study
from mrkd.studies.sums import difference, mean, words

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


@dataclass(frozen=True)
class Outcome:
    """What was found.

    Args:
        metrics: rows of `schema.METRICS`; those with few defects as `operating`'s.
        differences: rows of `schema.DIFFERENCES`.
        operating: rows of `schema.OPERATING`, of the first table's base with the first seed.
    """

    metrics: pa.Table
    differences: pa.Table
    operating: pa.Table


class Found:
    """The figures of the runs of a study that have ended without an error.

    Args:
        study: its folder.
        runs: of it.
    """

    def __init__(self, study: Study, runs: Sequence[Run]) -> None:
        self.study, self._config = study, study.config
        self.runs = {(one.key, one.category, one.seed): one for one in runs if not one.error}
        self._figures = {place: _read(study.figures(run)) for place, run in self.runs.items()}
        self.seeds = sorted({seed for _, _, seed in self.runs})
        self.categories = sorted({category for _, category, _ in self.runs})

    def of(self, arm: Arm, category: str) -> list[tuple[Run, Figures]]:
        """The runs of an arm on a category, by seed."""
        key = arm.key(self._config)
        places = [(key, category, seed) for seed in self.seeds]
        return [(self.runs[p], self._figures[p]) for p in places if p in self.runs]


def _with_each_seed(runs: Sequence[tuple[Run, Figures]], name: Name) -> list[Metric]:
    """A figure of the runs that have it."""
    return [figures[name] for _, figures in runs if name in figures]


def outcome(study: Study, tables: Sequence[Table], runs: Sequence[Run]) -> Outcome:
    """The rows of all tables.

    Args:
        study: its folder.
        tables: of it.
        runs: that have ended.
    """
    found = Found(study, runs)
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


def _scored(runs: Sequence[tuple[Run, Figures]]) -> list[int]:
    return [run.num_scored for run, _ in runs]


def _read(table: pa.Table) -> Figures:
    draws = table["draws"]
    rows = table.drop_columns(["draws"]).to_pylist()
    return {
        (row["metric"], row["defect"]): Metric(
            row["value"], row["low"], row["high"], row["reason"], np.asarray(draws[n].values)
        )
        for n, row in enumerate(rows)
    }


def _metrics(found: Found, table: Table) -> Iterator[dict[str, Any]]:
    for arm in table.arms:
        common = {"study": table.name, "arm": arm.name}
        means: dict[Name, list[Metric]] = {}
        for category in found.categories:
            runs = found.of(arm, category)
            for run, figures in runs:
                own = _own(table, arm, run)
                yield from (_row(own, name, one) for name, one in figures.items())
            for name in dict.fromkeys(name for _, figures in runs for name in figures):
                one = mean(_with_each_seed(runs, name))
                means.setdefault(name, []).append(one)
                yield _row({**common, "category": category}, name, one)
        if len(found.categories) > 1:
            # Of kinds of defects each category has its own.
            whole = {n: ms for n, ms in means.items() if len(ms) == len(found.categories)}
            yield from (
                _row(common, n, mean(ms)) for n, ms in whole.items() if n[1] in (None, MEAN)
            )


def _own(table: Table, arm: Arm, run: Run) -> dict[str, Any]:
    """What every figure of one run says of it."""
    return {
        "study": table.name,
        "arm": arm.name,
        "category": run.category,
        "seed": run.seed,
        "model_version": run.model["model_version"] or None,
        "config_digest": run.key,
    }


def _row(common: dict[str, Any], name: Name, figure: Metric) -> dict[str, Any]:
    return {
        **common,
        "metric": name[0],
        "defect": name[1],
        "value": figure.value,
        "low": figure.low,
        "high": figure.high,
        "reason": figure.reason,
    }


def _differences(found: Found, table: Table) -> Iterator[dict[str, Any]]:
    base = table.base_arm
    of_base = {category: found.of(base, category) for category in found.categories}
    for arm in table.arms:
        if arm is base:
            continue
        of_arm = {category: found.of(arm, category) for category in found.categories}
        for metric, defect in HEADLINES:
            pairs: list[tuple[str | None, list[Metric], list[Metric]]] = []
            for category in found.categories:
                runs, base_runs = of_arm[category], of_base[category]
                mine = _with_each_seed(runs, (metric, defect))
                its = _with_each_seed(base_runs, (metric, defect))
                if mine and len(mine) == len(its):
                    if _scored(runs) != _scored(base_runs):
                        # Draws of other images have no pairs, and so no interval.
                        mine = [replace(one, draws=np.zeros(0)) for one in mine]
                    pairs.append((category, mine, its))
            if len(pairs) == len(found.categories) > 1:
                by_seed = list(zip(*(mine for _, mine, _ in pairs), strict=False))
                base_by_seed = list(zip(*(its for _, _, its in pairs), strict=False))
                pairs.append((None, [mean(m) for m in by_seed], [mean(m) for m in base_by_seed]))
            for where, mine, its in pairs:
                yield {
                    "study": table.name,
                    "arm": arm.name,
                    "base": base.name,
                    "category": where,
                    "metric": metric,
                    "defect": defect,
                    **_difference(mine, its),
                }


def _difference(mine: Sequence[Metric], its: Sequence[Metric]) -> dict[str, Any]:
    one = difference(mine, its)
    by_seed = [
        m.value - i.value
        for m, i in zip(mine, its, strict=True)
        if m.value is not None and i.value is not None
    ]
    return {
        "value": one.value,
        "low": one.low,
        "high": one.high,
        "by_seed": by_seed,
        "words": words(one, by_seed),
    }
