"""One command without a config file, and what such commands share: summary, tables, user name."""

from __future__ import annotations

import argparse
import getpass
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mrkd.run_summary import Summary, now

Arguments = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Command:
    """One command: what it does, and its arguments by name as argparse takes them.

    Args:
        help: one line, for `--help`.
        work: the function that takes the parsed arguments and returns the summary; None: the
            command prints none.
        arguments: keywords of `add_argument` by name.
        one_of: names of arguments of which exactly one is needed.
    """

    help: str
    work: Callable[[argparse.Namespace], Summary | None]
    arguments: Arguments
    one_of: Sequence[str] = ()


def argument(metavar: str, help: str, **keywords: Any) -> dict[str, Any]:
    """The keywords of `add_argument` for an argument with a value."""
    return {"metavar": metavar, "help": help, **keywords}


NIGHTS_WORKSPACE: Arguments = {
    "--workspace": argument("URI", "folder of the models and nights", required=True)
}


def user() -> str:
    """Name of the user who runs this, for records that store it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user needs no name
        return f"uid {os.getuid()}"


def done(
    options: argparse.Namespace,
    counts: Mapping[str, int] | None = None,
    *,
    uris: Mapping[str, str] | None = None,
    reasons: Sequence[str] = (),
) -> Summary:
    """The summary of a command that did its work."""
    ends = options.started_at, now()
    return Summary(options.command, None, 0, "done", counts or {}, uris or {}, *ends, reasons)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the rows below their names, in columns, and an empty line."""
    if not rows:
        return
    lines = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())
    print()


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        value = ",".join(map(_text, value))
    return "-" if value is None else " ".join(str(value).split()) or "-"
