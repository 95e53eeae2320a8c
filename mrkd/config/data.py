"""Tables `[data]` and `[price]`, and checks of names and costs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from mrkd.config.toml import Config, Range, Uri, check_range
from mrkd.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Layout = Literal["mvtec", "folder", "elpv", "cifar10", "visa"]


def check_name(kind: str, name: str) -> str:
    """The name itself, if it may be part of a path.

    Raises:
        ConfigError: it does not match `[A-Za-z0-9][A-Za-z0-9._-]{0,99}`.
    """
    if NAME.fullmatch(name):
        return name
    raise ConfigError(
        f"{kind} {name!r} is not a name: use letters, digits, '.', '_' and '-', at most 100, "
        "the first a letter or digit"
    )


def check_labels(key: str, labels: Sequence[str]) -> None:
    """Checks labels of nodes.

    Raises:
        ConfigError: one is not `key=value`.
    """
    for label in labels:
        name, _, value = label.partition("=")
        if not name or not value:
            raise ConfigError(f"{key} holds {label!r}: write key=value, as in zone=a")


def check_costs(cost_escape: float, cost_false_call: float) -> None:
    """Does nothing if these may be the costs of wrong calls; both 0: not known.

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


ExecutorName = Literal["auto", "ray", "in_process"]
"""Where the work of a run is placed."""


@dataclass(frozen=True)
class DataConfig(Config, table="data"):
    """Labelled or good images to train on or to evaluate with."""

    root: Uri
    """Folder of the data set."""
    layout: Layout = "mvtec"
    """How the folders and files of the data set are arranged."""
    categories: tuple[str, ...] = ("*",)
    """Shell patterns of the categories to use."""
    split_csv: Uri = ""
    """CSV file with columns path, group and part; empty: `split.csv` in or beside the folder of the
    category, if there is one."""
    group: str = ""
    """Pattern of file names, without their ending, that names the images that belong together, such
    as `{run}_{n}`: `{n}` is a number that counts within a group, all other fields name the group,
    `*` matches anything. An image named otherwise is a group by itself. Empty: the groups of the
    layout, or groups that are found by similarity."""
    exclude: tuple[str, ...] = ()
    """Images to leave out of training: their URIs, or the last path components of these, such as
    `good/003.png`."""
    false_calls: bool = False
    """Whether images that reviewers confirmed as false calls (`mrkd review import`) train."""

    def _check(self) -> None:
        if self.group:
            group_pattern(self.group)


def group_pattern(text: str) -> re.Pattern[str]:
    """The expression of `data.group`, whose named groups are the fields but `n`.

    Raises:
        ConfigError: a field is not a name or occurs twice, or no field names a group.
    """
    pattern, names = "", set[str]()
    for part in re.split(r"(\{[^{}]*\}|\*)", text):
        name = part[1:-1]
        if part == "*":
            pattern += ".*?"
        elif part == "{n}":
            pattern += r"\d+"
        elif part.startswith("{") and part.endswith("}"):
            if not name.isidentifier() or name in names:
                raise ConfigError(
                    f"data.group is {text!r}: {part} is not a field's name, or occurs twice"
                )
            names.add(name)
            pattern += f"(?P<{name}>.+?)"
        else:
            pattern += re.escape(part)
    if not names:
        raise ConfigError(
            f"data.group is {text!r}: it must hold a field that names the group, as {{run}} in "
            "'{run}_{n}'"
        )
    return re.compile(pattern)


@dataclass(frozen=True)
class PriceConfig(Config, table="price"):
    """Prices for the cost estimate of `--plan`."""

    cpu_hour: Annotated[float, Range(0, 10**6)] = 0.0
    """Price of one hour of one CPU core."""
    gpu_hour: Annotated[float, Range(0, 10**6)] = 0.0
    """Price of one hour of one GPU."""
    currency: str = "USD"
    """Name of the currency, for the printed estimate."""
