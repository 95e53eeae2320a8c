"""What images there are, what may stand in a path, and what an hour costs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from mrkd.errors import ConfigError
from mrkd.tables import Config, check_range

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Layout = Literal["mvtec", "folder", "elpv", "cifar10", "visa"]


def check_name(kind: str, name: str) -> str:
    """The name itself, if it may stand in a path.

    Raises:
        ConfigError: it does not match `[A-Za-z0-9][A-Za-z0-9._-]{0,99}`.
    """
    if NAME.fullmatch(name):
        return name
    raise ConfigError(
        f"{kind} {name!r} is not a name: use letters, digits, '.', '_' and '-', at most 100, "
        "the first a letter or digit"
    )


def check_costs(cost_escape: float, cost_false_call: float) -> None:
    """Does nothing if these may be what wrong calls cost; 0 both: not known.

    Raises:
        ConfigError: one is out of range, or given without the other.
    """
    check_range("cost_escape", cost_escape, 0, 10**12)
    check_range("cost_false_call", cost_false_call, 0, 10**12)
    if (cost_escape == 0) != (cost_false_call == 0):
        raise ConfigError(
            f"cost_escape is {cost_escape:g} and cost_false_call {cost_false_call:g}: give both, "
            "or none"
        )


@dataclass(frozen=True)
class DataConfig(Config):
    """Labelled or good images to train on or to evaluate with."""

    root: str
    """URI of the data set's folder."""
    layout: Layout = "mvtec"
    categories: tuple[str, ...] = ("*",)
    """Shell patterns of the categories to use."""
    split_csv: str = ""
    """URI of a `path,group,part` file; empty: `split.csv` in or beside the category, if there."""
    exclude: tuple[str, ...] = ()
    """Image URIs, or their ends, to leave out of training."""
    false_calls: bool = False
    """Whether what people confirmed as false calls (`mrkd review import`) trains as well."""


@dataclass(frozen=True)
class PriceConfig(Config):
    """What an hour costs, for `--plan`."""

    cpu_hour: float = 0.0
    gpu_hour: float = 0.0
    currency: str = "USD"

    def __post_init__(self) -> None:
        check_range("price.cpu_hour", self.cpu_hour, 0, 10**6)
        check_range("price.gpu_hour", self.gpu_hour, 0, 10**6)
