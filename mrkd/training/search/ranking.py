"""Ranking of configs by the objectives of their trials."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from mrkd.training.search.importance import MIN_TRIALS
from mrkd.training.search.trial import Trial

Objectives = Mapping[str, Mapping[str, float]]
"""Objectives by config, then by category."""


def objectives(trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
    """Each config's objective of each category, a mean over seeds, as far as there is one."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        if trial.objective is not None:
            found[trial.key][trial.category].append(trial.objective)
    return {
        key: {category: float(np.mean(values)) for category, values in of_key.items()}
        for key, of_key in found.items()
    }


def finished(trials: Sequence[Trial], categories: Sequence[str]) -> dict[str, float]:
    """Objective of each config that came to its end in all categories, a mean over these."""
    return {
        key: float(np.mean(list(of_key.values())))
        for key, of_key in objectives(trials).items()
        if len(of_key) == len(categories)
    }


def comparable(
    trials: Sequence[Trial], categories: Sequence[str]
) -> tuple[dict[str, float], int | None]:
    """Objective of each config, a mean over the categories, where all were measured alike.

    These are the configs whose trials ended or, where a scheduler has left too few of these, all
    configs at their first rung. All trials are by one seed.

    Returns:
        Objectives by config; the epochs after which they were measured, None: at the end.
    """
    ended = finished(trials, categories)
    rungs = {one.key: one.rungs[0] for one in trials if one.rungs}
    if len(categories) > 1 or len(ended) >= MIN_TRIALS or len(rungs) <= len(ended):
        return ended, None
    epoch = min(row["epoch"] for row in rungs.values())
    return {key: row["objective"] for key, row in rungs.items() if row["epoch"] == epoch}, epoch + 1


def ranked(found: Objectives, categories: Sequence[str]) -> list[tuple[str, float]]:
    """Configs that have an objective in every category with their mean rank, the best first.

    Of equal ranks, as of one category, the higher mean objective goes first, then the name.
    """
    keys = [key for key, of_key in found.items() if all(c in of_key for c in categories)]
    if not keys:
        return []
    values = np.array([[found[key][c] for c in categories] for key in keys])
    # 1 and the number of those above, ties at half.
    above = (values[None] > values[:, None]).sum(1) + (
        (values[None] == values[:, None]).sum(1) - 1
    ) / 2
    mean_ranks = 1 + above.mean(1)
    order = sorted(range(len(keys)), key=lambda n: (mean_ranks[n], -values[n].mean(), keys[n]))
    return [(keys[n], float(mean_ranks[n])) for n in order]
