"""Importance of each key of a search space: fANOVA (Hutter et al. 2014), by Optuna."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

MIN_TRIALS = 8
"""Least number of trials that say anything about a single key."""


def importances(
    values: Sequence[Mapping[str, Any]],
    objectives: Sequence[float],
    log_keys: Collection[str] = (),
) -> tuple[dict[str, float], str]:
    """Share of the objective's variance that each key explains by itself, the largest first.

    Args:
        values: values by key of the space, one mapping a trial, all with the same keys.
        objectives: objectives of these trials.
        log_keys: keys that were drawn on a log scale.

    Returns:
        The shares, which add up to one; where there are none, why.
    """
    if len(values) < MIN_TRIALS:
        return {}, f"{len(values)} trials tell nothing of single keys: {MIN_TRIALS} may"
    if len(set(objectives)) == 1:
        return {}, "all trials have the same objective"
    try:
        import optuna
        import sklearn  # noqa: F401  # what Optuna's fANOVA grows its trees with
    except ImportError:
        return {}, "Optuna is not installed: pip install 'mrkd[tune]'"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    varied = {key: [one[key] for one in values] for key in values[0]}
    distributions = {key: _distribution(column, key in log_keys) for key, column in varied.items()}
    for one, objective in zip(values, objectives, strict=True):
        params = {key: _scalar(value) for key, value in one.items()}
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=distributions, value=objective)
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(share) for key, share in found.items()}, ""


def _distribution(column: Sequence[Any], is_log: bool) -> Any:
    """Distribution of a key's drawn values: numbers by their range."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if all(isinstance(value, float) for value in column) and min(column) < max(column):
        return FloatDistribution(min(column), max(column), log=is_log)
    return CategoricalDistribution(sorted({_scalar(value) for value in column}, key=repr))


def _scalar(value: Any) -> Any:
    return repr(value) if isinstance(value, list | tuple) else value
