"""The arms of each table."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mrkd.config import EvalConfig, TrainConfig, config_digest
from mrkd.errors import ConfigError

Kind = Literal["mrkd", "nearest_neighbour"]

MODEL, RD, NEAREST = "MRKD", "plain RD", "nearest neighbour"
STUDENT, CELLS = "MRKD student alone", "cell Gaussians alone"

ALONE = {"model.student": True, "model.cells": False}
"""Leaves the student by itself, whose parts are compared."""
PLAIN_RD = {**ALONE, "model.fmm": False, "model.scconv": False, "model.simam": False}
"""Turns MRKD into reverse distillation: same normalisation, loss and steps."""

_MASK_RATES = (0.0, 0.2, 0.4, 0.6, 0.8)
_FAMILIES = (
    ("resnet18", "resnet50", "wide_resnet50_2"),
    ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"),
)


@dataclass(frozen=True)
class Variant:
    """One row of a table.

    Args:
        name: name in the table.
        values: values by dotted key that replace those of the evaluation's config.
        kind: what is fitted.
    """

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    kind: Kind = "mrkd"

    def training(self, config: EvalConfig, category: str, seed: int) -> TrainConfig:
        """The config of one run; the arm's values lie above those of the category's patterns."""
        own = config.base().for_category(category)
        return own.with_values({**self.values, "train.seed": seed})

    def key(self, config: EvalConfig) -> str:
        """Name of the arm's resolved config: 12 hex digits, equal for arms of equal configs."""
        one = config.base().with_values(self.values)
        return config_digest(one.model, one.train, self.kind, str(one.category))


@dataclass(frozen=True)
class Table:
    """Arms that are compared.

    Args:
        name: name of the ablation, or `results`.
        title: heading on the page.
        arms: its rows, in order.
        base: name of the arm that each other's difference is taken to.
        paper: which table of the paper it repeats; empty: none.
    """

    name: str
    title: str
    arms: tuple[Variant, ...]
    base: str
    paper: str = ""

    @property
    def base_arm(self) -> Variant:
        """The arm that `base` names."""
        return next(arm for arm in self.arms if arm.name == self.base)


def tables_of(config: EvalConfig) -> list[Table]:
    """The tables that a config asks for.

    Raises:
        ConfigError: an ablation of a part that the model does not have.
    """
    if config.ablation == "none":
        return [_results(config)]
    names = list(_ABLATIONS) if config.ablation == "all" else [config.ablation]
    return [_ABLATIONS[name](config) for name in names]


def runs_of(config: EvalConfig, tables: Sequence[Table]) -> dict[str, Variant]:
    """Each thing that is fitted once, by its key, in the order of the tables."""
    found: dict[str, Variant] = {}
    for arm in (arm for table in tables for arm in table.arms):
        found.setdefault(arm.key(config), arm)
    return found


def _results(config: EvalConfig) -> Table:
    arms = [Variant(MODEL)]
    model = config.model
    if "student" in config.baselines and model.cells:
        arms.append(Variant(STUDENT, ALONE))
    if "plain_rd" in config.baselines:
        arms.append(Variant(RD, PLAIN_RD))
    if "cell_gaussian" in config.baselines and model.student:
        arms.append(Variant(CELLS, _ONLY_CELLS))
    if "nearest_neighbour" in config.baselines:
        arms.append(Variant(NEAREST, kind="nearest_neighbour"))
    paper = "Table 1" if config.protocol == "mvtec" else ""
    return Table("results", "The model and what it is set against", tuple(arms), MODEL, paper)


_ONLY_CELLS = {"model.student": False, "model.cells": True, "model.gaussian": 0.0}


def _detectors(config: EvalConfig) -> Table:
    arms = (
        Variant("student and cells", {**_ONLY_CELLS, "model.student": True}),
        Variant(STUDENT, ALONE),
        Variant(CELLS, _ONLY_CELLS),
    )
    return Table("detectors", "Student and cell Gaussians", arms, arms[0].name)


def _backbone(config: EvalConfig) -> Table:
    own = config.model.backbone
    family = next(family for family in _FAMILIES if own in family)
    if config.model.weights not in ("auto", "random") or config.model.taps:
        raise ConfigError(
            "ablation is backbone, and model.weights or model.taps is of one backbone alone: set "
            "weights to auto, and no taps"
        )
    arms = tuple(Variant(name, {**ALONE, "model.backbone": name}) for name in family)
    return Table("backbone", "Teachers", arms, own, "Table 4")


def _fmm(config: EvalConfig) -> Table:
    parts = {"with FMM": True, "without FMM": False}
    arms = tuple(Variant(name, {**ALONE, "model.fmm": fmm}) for name, fmm in parts.items())
    return Table("fmm", "Feature mask generation", arms, "with FMM", "Table 5")


def _scsatt(config: EvalConfig) -> Table:
    parts = {"both": (True, True), "SCConv": (True, False), "SimAM": (False, True)}
    arms = [
        Variant(name, {**ALONE, "model.fmm": True, "model.scconv": scconv, "model.simam": simam})
        for name, (scconv, simam) in parts.items()
    ]
    arms.append(Variant("neither, with FMM", PLAIN_RD | {"model.fmm": True}))
    arms.append(Variant(RD, PLAIN_RD))
    return Table("scsatt", "SCConv and SimAM", tuple(arms), "both", "Table 6")


def _levels(config: EvalConfig) -> Table:
    count = len(config.model.taps) or 3
    numbers = range(1, count + 1)
    subsets = [s for size in numbers for s in itertools.combinations(numbers, size)]
    # All of them are not a subset, so that the arm shares its runs with the model itself.
    levels = {", ".join(map(str, s)): [] if len(s) == count else list(s) for s in subsets}
    arms = [Variant(name, {**ALONE, "model.levels": own}) for name, own in levels.items()]
    return Table("levels", "Levels in loss and map", tuple(arms), arms[-1].name, "Table 7")


def _mask_rate(config: EvalConfig) -> Table:
    if not config.model.fmm:
        raise ConfigError(
            "ablation is mask_rate, and model.fmm is off, so that nothing is masked: set "
            "model.fmm, or a preset that does (masked, paper)"
        )
    rates = sorted({*_MASK_RATES, config.train.mask_rate})
    arms = tuple(Variant(f"{rate:g}", {**ALONE, "train.mask_rate": rate}) for rate in rates)
    return Table("mask_rate", "Mask rate", arms, f"{config.train.mask_rate:g}")


_ABLATIONS = {
    "backbone": _backbone,
    "fmm": _fmm,
    "scsatt": _scsatt,
    "levels": _levels,
    "mask_rate": _mask_rate,
    "detectors": _detectors,
}
