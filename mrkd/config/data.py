"""What images there are, what may stand in a path, and what an hour costs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from mrkd.config.toml import Config, check_range
from mrkd.errors import ConfigError

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
    group: str = ""
    """How a file's name, without its ending, says which images belong together, as in
    `{run}_{n}`: `{n}` is a number that counts within a group, all other fields name the group, `*`
    is anything else. An image named otherwise is a group of its own. Empty: the layout's groups, or
    else groups are found."""
    exclude: tuple[str, ...] = ()
    """Image URIs, or their ends, to leave out of training."""
    false_calls: bool = False
    """Whether what people confirmed as false calls (`mrkd review import`) trains as well."""

    def __post_init__(self) -> None:
        if self.group:
            group_pattern(self.group)


def group_pattern(text: str) -> re.Pattern[str]:
    """The expression of `data.group`, whose named groups are the fields but `n`.

    Raises:
        ConfigError: it is no such pattern, or has no field that names a group.
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
                    f"data.group is {text!r}: {part} is not a field's name, or stands twice"
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
class PriceConfig(Config):
    """What an hour costs, for `--plan`."""

    cpu_hour: float = 0.0
    gpu_hour: float = 0.0
    currency: str = "USD"

    def __post_init__(self) -> None:
        check_range("price.cpu_hour", self.cpu_hour, 0, 10**6)
        check_range("price.gpu_hour", self.gpu_hour, 0, 10**6)
