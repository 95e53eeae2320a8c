"""The commands that need no config file: `mrkd demo`, `report`, `manifest` and `models ...`.

Each takes its parsed arguments and returns its verdict; what people asked to see is printed first,
as a table. Nothing heavy is imported before one runs.
"""

from __future__ import annotations

import argparse
import functools
import getpass
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mrkd.config import check_name
from mrkd.config.toml import check_range
from mrkd.errors import ConfigError
from mrkd.run_summary import Summary, now

if TYPE_CHECKING:
    from mrkd.model.registry.queries import Shelf


def _demo(options: argparse.Namespace) -> Summary:
    from mrkd.cli import demo

    return demo.run(options.out)


def _report(options: argparse.Namespace) -> Summary:
    from mrkd import reports

    started_at = now()
    page_uri = reports.write_page(options.run_uri)
    return done("report", started_at, uris={"report": page_uri})


def _manifest(options: argparse.Namespace) -> Summary:
    from mrkd import storage
    from mrkd.nights import archive

    started_at = now()
    counts = archive.write_manifest(options.uri, options.out, options.template)
    return done("manifest", started_at, counts, uris={"manifest": storage.join(options.out)})


def _list(options: argparse.Namespace) -> Summary:
    from mrkd.model.registry import queries

    started_at = now()
    rows = queries.list_versions(options.workspace, options.category)
    print_table(rows)
    counts = {
        "categories": len({row["category"] for row in rows}),
        "versions": len(rows),
        "held": sum(row["state"] == "held" for row in rows),
    }
    return done("models list", started_at, counts)


def _show(options: argparse.Namespace) -> Summary:
    from mrkd.model import artefact
    from mrkd.model.registry import queries

    started_at, shelf = now(), shelf_of(options)
    version = shelf.require(options.version)
    facts = queries.facts(shelf, version)
    print_table([{"": name, version: value} for name, value in facts.items()])
    calibrations, promotions = queries.calibrations(shelf, version), queries.promotions(shelf)
    print_table(calibrations)
    print_table(promotions)
    counts = {"calibrations": len(calibrations), "promotions": len(promotions)}
    folder = artefact.folder_of(shelf.workspace, shelf.category, version)
    return done("models show", started_at, counts, uris={"model": folder})


def _compare(options: argparse.Namespace) -> Summary:
    from mrkd.model.registry import queries

    started_at = now()
    check_name("version", options.other)
    rows = queries.compare(shelf_of(options), options.version, options.other)
    print_table(rows)
    return done("models compare", started_at, {"differences": len(rows)})


def _promote(options: argparse.Namespace) -> Summary:
    from mrkd.model.registry import queries

    started_at = now()
    promotion = queries.promote(
        shelf_of(options),
        options.version,
        calibration=options.calibration,
        by=user(),
        why=_why(options),
    )
    print_table(queries.promotions(shelf_of(options)))
    counts = {"promotion": promotion.number, "calibration": promotion.calibration}
    return done("models promote", started_at, counts)


def _set_threshold(options: argparse.Namespace) -> Summary:
    from mrkd.model.calibration import at_rate, at_threshold
    from mrkd.model.registry import queries

    started_at, threshold, rate = now(), options.threshold, options.false_call_rate
    if threshold is not None:
        check_range("--threshold", threshold, -1e30, 1e30)
        rule = functools.partial(at_threshold, threshold=threshold)
    else:
        check_range("--false-call-rate", rate, 1e-6, 0.5)
        rule = functools.partial(at_rate, false_call_rate=rate)
    shelf, why = shelf_of(options), _why(options)
    version = shelf.require(options.version)
    calibration, promotion = queries.set_threshold(shelf, version, rule, by=user(), why=why)
    print_table(queries.calibrations(shelf, version))
    counts = {"calibration": calibration.number}
    reasons = [calibration.warning] if calibration.warning else []
    if promotion is None:
        reasons.append(_once_promoted(shelf, version, calibration.number))
    else:
        counts["promotion"] = promotion.number
    return done("models set-threshold", started_at, counts, reasons=reasons)


def _calibrate(options: argparse.Namespace) -> Summary:
    from mrkd import storage
    from mrkd.model import artefact, calibration
    from mrkd.model.registry import queries
    from mrkd.nights import commissioning, try_threshold

    started_at = now()
    check_name("run", options.night)
    check_range("--defect-rate", options.defect_rate, 0, 0.5)
    shelf, why = shelf_of(options), _why(options)
    version = shelf.require(options.version)
    before = queries.calibration(shelf, version)
    rate = options.false_call_rate
    if rate is None:
        card = artefact.read_card(shelf.workspace, shelf.category, version)
        rate = calibration.asked_rate(before, default=card.train.false_call_rate)
    check_range("--false-call-rate", rate, 1e-6, 0.5)
    line = commissioning.read_line(shelf.workspace, options.night, shelf.category, version)
    how = line.usual if options.by == "auto" else options.by
    wanted = commissioning.commission(
        before, line, how=how, false_call_rate=rate, defect_rate=options.defect_rate
    )
    # On stored scores first: what it would have decided in that very night.
    night_uri = storage.join(shelf.workspace, "nights", options.night)
    trial = try_threshold.try_threshold(night_uri, shelf.category, wanted.threshold)
    print_table(trial.models)
    kind = f"{wanted.line['num_images'] if wanted.line else 0} images of night {options.night!r}"
    reasons = [f"by {how} of {kind}", *filter(None, [wanted.warning])]
    counts = trial.counts
    if options.dry_run:
        reasons.append(f"threshold {wanted.threshold:.6g} was not stored: leave out --dry-run")
        return done("models calibrate", started_at, counts, reasons=reasons)
    new, promotion = queries.set_threshold(shelf, version, lambda _: wanted, by=user(), why=why)
    print_table(queries.calibrations(shelf, version))
    counts = {**counts, "calibration": new.number}
    if promotion is None:
        reasons.append(_once_promoted(shelf, version, new.number))
    else:
        counts["promotion"] = promotion.number
        last = shelf.calibration(version)
        reasons.append(
            f"back: mrkd models promote {shelf.category} {version} --calibration {last} --why ..."
        )
    return done("models calibrate", started_at, counts, reasons=reasons)


def _once_promoted(shelf: Shelf, version: str, number: int) -> str:
    return (
        f"version {version} is {shelf.state(version)}: it decides by calibration {number} once it "
        "is promoted"
    )


_Arguments = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Command:
    """One command: what it does, and its arguments by name as argparse takes them.

    Args:
        help: one line.
        work: from the parsed arguments to a verdict.
        arguments: keywords of `add_argument` by name.
        one_of: names of arguments of which exactly one is needed.
    """

    help: str
    work: Callable[[argparse.Namespace], Summary]
    arguments: _Arguments
    one_of: Sequence[str] = ()


_WORKSPACE: _Arguments = {
    "--workspace": {"required": True, "metavar": "URI", "help": "of the models"}
}
NIGHTS_WORKSPACE: _Arguments = {
    "--workspace": {"required": True, "metavar": "URI", "help": "of the nights"}
}
_CATEGORY: _Arguments = {"category": {"metavar": "CATEGORY"}, **_WORKSPACE}
_WHY: _Arguments = {"--why": {"required": True, "metavar": "TEXT", "help": "stored with your name"}}

GROUPS = {"models": "the registry: versions, champions, thresholds"}
"""First words of commands of two."""

COMMANDS: Mapping[str, Command] = {
    "demo": Command(
        "real images end to end on this machine, with a page to look at",
        _demo,
        {"--out": {"default": "mrkd-demo", "metavar": "FOLDER", "help": "where it writes"}},
    ),
    "report": Command(
        "the page of a run again, from what it stored",
        _report,
        {
            "run_uri": {
                "metavar": "RUN_URI",
                "help": "folder of a night, a fleet, an evaluation or a comparison",
            }
        },
    ),
    "manifest": Command(
        "lists an archive once, for nights that name the file as archive.manifest",
        _manifest,
        {
            "uri": {"metavar": "URI", "help": "of the archive, or of a folder of it"},
            "--out": {"required": True, "metavar": "FILE.parquet", "help": "where it is written"},
            "--template": {
                "default": "",
                "metavar": "TEXT",
                "help": "of the keys, for its categories; else the night's own template reads them",
            },
        },
    ),
    "models list": Command(
        "all versions, each with its state and what its gate measured",
        _list,
        {
            **_WORKSPACE,
            "--category": {"default": "*", "metavar": "PATTERN", "help": "only those that fit"},
        },
    ),
    "models show": Command(
        "one version: what made it and how it decides",
        _show,
        {**_CATEGORY, "version": {"nargs": "?", "metavar": "VERSION", "help": "or the champion"}},
    ),
    "models compare": Command(
        "what differs between two versions",
        _compare,
        {**_CATEGORY, "version": {"metavar": "A"}, "other": {"metavar": "B"}},
    ),
    "models promote": Command(
        "makes a version the champion, also one that was held or superseded",
        _promote,
        {
            **_CATEGORY,
            "version": {"metavar": "VERSION"},
            "--calibration": {
                "type": int,
                "metavar": "N",
                "help": "to decide by; else as promoted last, or its newest",
            },
            **_WHY,
        },
    ),
    "models set-threshold": Command(
        "another threshold, from the stored scores of held-out good images; nothing is trained",
        _set_threshold,
        {
            **_CATEGORY,
            "--version": {
                "metavar": "VERSION",
                "help": "or the champion, which then decides by it",
            },
            "--threshold": {"type": float, "metavar": "X", "help": "defective strictly above it"},
            "--false-call-rate": {
                "type": float,
                "metavar": "R",
                "help": "share of good parts that it may call defective",
            },
            **_WHY,
        },
        one_of=("--threshold", "--false-call-rate"),
    ),
    "models calibrate": Command(
        "threshold and scores from the first parts of the line, as a night scored them",
        _calibrate,
        {
            **_CATEGORY,
            "--night": {"required": True, "metavar": "RUN", "help": "that scored them"},
            "--version": {
                "metavar": "VERSION",
                "help": "or the champion, which then decides by it",
            },
            "--by": {
                "choices": ("auto", "verdicts", "median"),
                "default": "auto",
                "help": "verdicts: the images that people call good; median: median and spread of "
                "all, as most are good; auto: by verdicts on at least half of the night",
            },
            "--defect-rate": {
                "type": float,
                "default": 0.02,
                "metavar": "R",
                "help": "for median, the share of the night taken for defective (default 0.02)",
            },
            "--false-call-rate": {
                "type": float,
                "metavar": "R",
                "help": "share of good parts that it may call defective; else as asked before",
            },
            "--dry-run": {
                "action": "store_true",
                "help": "say what it would decide, store nothing",
            },
            **_WHY,
        },
    ),
}


def shelf_of(options: argparse.Namespace) -> Shelf:
    """What the registry says of the category; nothing is looked for under a name that is none."""
    from mrkd.model.registry import queries

    check_name("category", options.category)
    if options.version is not None:
        check_name("version", options.version)
    return queries.shelf(options.workspace, options.category)


def user() -> str:
    """Who runs this, for what is stored with a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user needs no name
        return f"uid {os.getuid()}"


def _why(options: argparse.Namespace) -> str:
    why = " ".join(options.why.split())
    if not why:
        raise ConfigError("--why is empty: say it for those who will read the registry")
    return why


def done(
    command: str,
    started_at: str,
    counts: Mapping[str, int] | None = None,
    *,
    uris: Mapping[str, str] | None = None,
    reasons: Sequence[str] = (),
) -> Summary:
    """The verdict of a command that did its work."""
    return Summary(command, None, 0, "done", counts or {}, uris or {}, started_at, now(), reasons)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows below their names, in columns, and an empty line."""
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
