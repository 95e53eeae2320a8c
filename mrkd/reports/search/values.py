"""What the page of a search shows, as plain values: nothing is read after this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mrkd.reports.kit.values import Measure
from mrkd.training.search import Trial
from mrkd.training.search.effects import Effect


@dataclass(frozen=True)
class Candidate:
    """A config that was trained again with other seeds.

    Args:
        config: its name.
        values: what it changes, by dotted key; none for the default.
        is_default: whether it is what the search began with.
        objectives: one a seed, a mean over the categories.
        mean_rank: over the categories.
        false_call_rate: share of clean images above the threshold, a mean; None where unknown.
        seconds: of a training, a mean.
        model_bytes: of its files.
    """

    config: str
    values: Mapping[str, Any]
    is_default: bool
    objectives: tuple[float, ...]
    mean_rank: float
    false_call_rate: float | None
    seconds: float
    model_bytes: int


@dataclass(frozen=True)
class Test:
    """Winner and default on the images of a category that decided nothing.

    Args:
        category: its name.
        by: labels or synthetic.
        winner: image AUROC, a mean over seeds with a 95 % interval over images.
        default: the same.
        difference: the winner's less the default's, on the same images.
        aupro: of winner and default; None where there are no masks.
        false_call_rate: of winner and default.
        num_good: images without a defect.
        num_defective: images with one.
        optimism: the winner's objective less its test, where both are image AUROC.
    """

    category: str
    by: str
    winner: Measure
    default: Measure
    difference: Measure
    aupro: tuple[float | None, float | None]
    false_call_rate: tuple[float | None, float | None]
    num_good: int
    num_defective: int
    optimism: float | None


@dataclass(frozen=True)
class SearchGroup:
    """What was searched together: one category, or all of them.

    Args:
        categories: that share a config.
        trials: of the search itself, of every category.
        configs: of those that came to their end the objective by config, a mean over the
            categories.
        compared: objective by config where all were measured alike, `searches.comparable`.
        compared_epochs: after which they were; None: at the end.
        board: refitted configs, the best first.
        tests: one a category.
        importance: share of the variance that each key explains.
        no_importance: why there are none.
        effects: of each key.
    """

    categories: tuple[str, ...]
    trials: tuple[Trial, ...]
    configs: Mapping[str, float]
    compared: Mapping[str, float]
    compared_epochs: int | None
    board: tuple[Candidate, ...]
    tests: tuple[Test, ...]
    importance: Mapping[str, float]
    no_importance: str
    effects: tuple[Effect, ...]


@dataclass(frozen=True)
class SearchData:
    """Everything the page of a search shows.

    Args:
        run: of the search.
        workspace: URI of the workspace that holds it.
        root: URI of the images.
        started_at: UTC, ISO 8601.
        finished_at: likewise.
        metric: what trials are judged by.
        space: domain of each key, in words.
        groups: searched by themselves.
        best_toml: what `mrkd train` takes; empty where nothing won.
        config: the resolved config.
    """

    run: str
    workspace: str
    root: str
    started_at: str
    finished_at: str
    metric: str
    space: Mapping[str, str]
    groups: tuple[SearchGroup, ...]
    best_toml: str
    config: Mapping[str, Any] = field(default_factory=dict)
