"""The commands without a config file: `mrkd demo`, `report`, `manifest` and `models ...`.

Each takes its parsed arguments, prints its tables and returns its summary. Nothing heavy is
imported before one runs.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mrkd.cli.command import Arguments, Command, argument, done, print_table, user
from mrkd.config import check_name
from mrkd.config.toml import check_range
from mrkd.errors import ConfigError
from mrkd.run_summary import Summary

if TYPE_CHECKING:
    from mrkd.model.artefact import Calibration
    from mrkd.model.registry.queries import Shelf


def _demo(options: argparse.Namespace) -> Summary:
    from mrkd.cli import demo
    from mrkd.runs.choice import for_one_machine

    return demo.run(options.out, for_one_machine(options.executor))


def _report(options: argparse.Namespace) -> Summary:
    from mrkd import reports

    page_uri = reports.write_page(options.run_uri)
    return done(options, uris={"report": page_uri})


def _manifest(options: argparse.Namespace) -> Summary:
    from mrkd import storage
    from mrkd.nights import archive

    counts = archive.write_manifest(options.uri, options.out, options.template)
    return done(options, counts, uris={"manifest": storage.join(options.out)})


def _list(options: argparse.Namespace) -> Summary:
    from mrkd.model.registry import queries

    rows = queries.list_versions(options.workspace, options.category)
    print_table(rows)
    counts = {
        "categories": len({row["category"] for row in rows}),
        "versions": len(rows),
        "held": sum(row["state"] == "held" for row in rows),
    }
    return done(options, counts)


def _show(options: argparse.Namespace) -> Summary:
    from mrkd.model import artefact
    from mrkd.model.registry import queries

    shelf = shelf_of(options)
    version = shelf.require(options.version)
    facts = queries.facts(shelf, version)
    print_table([{"": name, version: value} for name, value in facts.items()])
    calibrations, promotions = queries.calibrations(shelf, version), queries.promotions(shelf)
    print_table(calibrations)
    print_table(promotions)
    counts = {"calibrations": len(calibrations), "promotions": len(promotions)}
    folder = artefact.folder_of(shelf.workspace, shelf.category, version)
    return done(options, counts, uris={"model": folder})


def _compare(options: argparse.Namespace) -> Summary:
    from mrkd.model.registry import queries

    check_name("version", options.other)
    rows = queries.compare(shelf_of(options), options.version, options.other)
    print_table(rows)
    return done(options, {"differences": len(rows)})


def _promote(options: argparse.Namespace) -> Summary:
    from mrkd.model.registry import queries

    promotion = queries.promote(
        shelf_of(options),
        options.version,
        calibration=options.calibration,
        by=user(),
        why=_why(options),
    )
    print_table(queries.promotions(shelf_of(options)))
    counts = {"promotion": promotion.number, "calibration": promotion.calibration}
    return done(options, counts)


def _set_threshold(options: argparse.Namespace) -> Summary:
    from mrkd.model.calibration import at_rate, at_threshold

    threshold, rate = options.threshold, options.false_call_rate
    if threshold is not None:
        check_range("--threshold", threshold, -1e30, 1e30)
        rule = functools.partial(at_threshold, threshold=threshold)
    else:
        check_range("--false-call-rate", rate, 1e-6, 0.5)
        rule = functools.partial(at_rate, false_call_rate=rate)
    shelf, why = shelf_of(options), _why(options)
    new, counts, reasons = _store(shelf, shelf.require(options.version), rule, why)
    return done(options, counts, reasons=[*filter(None, [new.warning]), *reasons])


def _calibrate(options: argparse.Namespace) -> Summary:
    from mrkd import storage
    from mrkd.model import artefact, calibration
    from mrkd.model.registry import queries
    from mrkd.nights import commissioning, try_threshold

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
        return done(options, counts, reasons=reasons)
    _, stored, waits = _store(shelf, version, lambda _: wanted, why)
    last = shelf.calibration(version)
    back = f"back: mrkd models promote {shelf.category} {version} --calibration {last} --why ..."
    return done(options, {**counts, **stored}, reasons=[*reasons, *(waits or [back])])


def _store(
    shelf: Shelf, version: str, rule: Callable[[Calibration], Calibration], why: str
) -> tuple[Calibration, dict[str, int], list[str]]:
    """The calibration that a rule makes, stored; its counts, and why it does not decide yet."""
    from mrkd.model.registry import queries

    new, promotion = queries.set_threshold(shelf, version, rule, by=user(), why=why)
    print_table(queries.calibrations(shelf, version))
    if promotion is not None:
        return new, {"calibration": new.number, "promotion": promotion.number}, []
    state = shelf.state(version)
    waits = f"version {version} is {state}: it decides by calibration {new.number} once it "
    return new, {"calibration": new.number}, [f"{waits}is promoted"]


def shelf_of(options: argparse.Namespace) -> Shelf:
    """The registry's record of the category, after its name and the version's are checked."""
    from mrkd.model.registry import queries

    check_name("category", options.category)
    if options.version is not None:
        check_name("version", options.version)
    return queries.shelf(options.workspace, options.category)


def _why(options: argparse.Namespace) -> str:
    why = " ".join(options.why.split())
    if not why:
        raise ConfigError("--why is empty: give the reason for readers of the registry")
    return why


_WORKSPACE: Arguments = {"--workspace": argument("URI", "folder of the models", required=True)}
_CATEGORY: Arguments = {"category": argument("CATEGORY", "name of the category"), **_WORKSPACE}
_VERSION: Arguments = {
    "--version": argument(
        "VERSION", "version of the model; default: the champion, which then decides by the result"
    )
}
_RATE = "share of good parts that the threshold may call defective, 1e-6 to 0.5"
_WHY: Arguments = {"--why": argument("TEXT", "reason, stored with your user name", required=True)}

GROUPS = {"models": "the registry of models: versions, champions, thresholds"}
"""First words of commands of two."""

COMMANDS: Mapping[str, Command] = {
    "demo": Command(
        "train, score and evaluate on real images on this machine; writes a report",
        _demo,
        {
            "--out": argument(
                "FOLDER", "folder to write to (default: mrkd-demo)", default="mrkd-demo"
            ),
            "--executor": argument(
                "auto|ray|in_process",
                "where the work runs; auto: on Ray only where RAY_ADDRESS is set",
                default="auto",
                choices=("auto", "ray", "in_process"),
            ),
        },
    ),
    "report": Command(
        "write the page of a run again, from what the run stored",
        _report,
        {
            "run_uri": argument(
                "RUN_URI", "folder of a night, a fleet, an evaluation or a comparison"
            )
        },
    ),
    "manifest": Command(
        "list an archive once, for nights that name the file as archive.manifest",
        _manifest,
        {
            "uri": argument("URI", "the archive, or a folder of it"),
            "--out": argument("FILE.parquet", "file to write", required=True),
            "--template": argument(
                "TEXT",
                "pattern of the keys, which gives the images' categories; default: each "
                "night reads them by its own template",
                default="",
            ),
        },
    ),
    "models list": Command(
        "list all versions, each with its state and the metrics of its gate",
        _list,
        {
            **_WORKSPACE,
            "--category": argument(
                "PATTERN", "only categories that fit this shell pattern (default: *)", default="*"
            ),
        },
    ),
    "models show": Command(
        "show one version: what it was made of and how it decides",
        _show,
        {
            **_CATEGORY,
            "version": argument(
                "VERSION", "version of the model; default: the champion", nargs="?"
            ),
        },
    ),
    "models compare": Command(
        "show what differs between two versions",
        _compare,
        {
            **_CATEGORY,
            "version": argument("A", "the first version"),
            "other": argument("B", "the second version"),
        },
    ),
    "models promote": Command(
        "make a version the champion, also one that was held or superseded",
        _promote,
        {
            **_CATEGORY,
            "version": argument("VERSION", "version of the model"),
            "--calibration": argument(
                "N",
                "number of the calibration to decide by; default: that of its last "
                "promotion, or its newest",
                type=int,
            ),
            **_WHY,
        },
    ),
    "models set-threshold": Command(
        "set another threshold, from stored scores of held-out good images; nothing is trained",
        _set_threshold,
        {
            **_CATEGORY,
            **_VERSION,
            "--threshold": argument("X", "score above which an image is defective", type=float),
            "--false-call-rate": argument("R", _RATE, type=float),
            **_WHY,
        },
        one_of=("--threshold", "--false-call-rate"),
    ),
    "models calibrate": Command(
        "set threshold and score scale from the first parts of the line, as a night scored them",
        _calibrate,
        {
            **_CATEGORY,
            "--night": argument("RUN", "name of the night that scored the parts", required=True),
            **_VERSION,
            "--by": {
                "choices": ("auto", "verdicts", "median"),
                "default": "auto",
                "help": "verdicts: from the images that reviewers call good; median: from median "
                "and spread of all images, as most are good; auto: verdicts if they cover at least "
                "half of the night (default: auto)",
            },
            "--defect-rate": argument(
                "R",
                "with median, the share of the night that is assumed defective, 0 to 0.5 "
                "(default: 0.02)",
                type=float,
                default=0.02,
            ),
            "--false-call-rate": argument(
                "R", f"{_RATE}; default: the earlier calibration's", type=float
            ),
            "--dry-run": {
                "action": "store_true",
                "help": "print what the threshold would decide, and store nothing",
            },
            **_WHY,
        },
    ),
}
