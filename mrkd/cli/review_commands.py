"""`mrkd review ...`: reviewers' verdicts on a night's images, and thresholds from them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mrkd.cli.command import NIGHTS_WORKSPACE, Command, argument, done, print_table, user
from mrkd.cli.model_commands import shelf_of
from mrkd.config import check_costs
from mrkd.errors import ConfigError
from mrkd.run_summary import Summary

if TYPE_CHECKING:
    from mrkd.evaluation.metrics import OperatingPoint, Rate
    from mrkd.nights.reviews.store import Review


def _import(options: argparse.Namespace) -> Summary:
    from mrkd import reports, storage
    from mrkd.nights.reviews import import_labels
    from mrkd.nights.reviews import labels_csv as labels

    said = labels.read_labels(options.labels)
    brought = import_labels.bring(options.workspace, said, by=user())
    print_table(_by_category(brought.reviews))
    counts = {
        "labels": len(said),
        "imported": len(brought.reviews),
        "known": brought.known,
        "overtaken": brought.overtaken,
        "false_calls": _count(brought.reviews, "NOK", "OK"),
        "escapes": _count(brought.reviews, "OK", "NOK"),
        "unmatched": len(brought.unmatched),
        "unread": len(brought.unread),
    }
    reasons = []
    if brought.overtaken:
        reasons.append(
            f"{brought.overtaken} verdicts are older than those stored of the same images, and do "
            "not count"
        )
    if brought.unmatched:
        reasons.append(
            f"{len(brought.unmatched)} images are in no closed night, the first "
            f"{brought.unmatched[0]}: give each URI as the night lists it, a tar's member as "
            "<tar>#<member>"
        )
    if brought.unread:
        reasons.append(
            f"{len(brought.unread)} images are not in the archive as they were scored, the first "
            f"{brought.unread[0]}: their verdicts count, a training set cannot know their bytes"
        )
    uris = {"reviews": brought.uri} if brought.uri else {}
    for run in brought.runs:
        night_uri = storage.join(options.workspace, "nights", run)
        if storage.stat(storage.join(night_uri, "report.html")):
            uris[f"report {run}"] = reports.write_page(night_uri)
    summary = done(options, counts, uris=uris, reasons=reasons)
    return replace(summary, exit_code=3, state="partial") if brought.unmatched else summary


def _propose(options: argparse.Namespace) -> Summary:
    from mrkd import storage
    from mrkd.nights.manifest import read_manifests
    from mrkd.nights.reviews.error_rates import estimate

    check_costs(options.cost_escape, options.cost_false_call)
    shown = shelf_of(options).require(options.version)
    folder = storage.join(options.workspace, "nights")
    runs = storage.list_names(folder)
    found = estimate(
        options.workspace,
        {run: read_manifests(storage.join(folder, run)) for run in runs},
        {options.category: shown},
        cost_escape=options.cost_escape,
        cost_false_call=options.cost_false_call,
    )
    if not found:
        raise ConfigError(
            f"nobody has reviewed an image that {options.category!r} version {shown} decided: "
            "import verdicts by `mrkd review import`"
        )
    (one,) = found
    print_table(
        [
            {"called": name, "images": calls.num_images, "seen": calls.num_seen, "wrong": wrong}
            for name, calls in (("OK", one.ok), ("NOK", one.nok))
            for wrong in [_text(calls.wrong, 100, " %") if calls.wrong else "-"]
        ]
    )
    print_table([_row(point) for point in one.points])
    reasons = [f"no threshold is proposed: {one.gap}"] if one.gap else []
    if one.points:
        reasons.append(
            f"mrkd models set-threshold {options.category} --version {shown} --threshold X "
            "--workspace ... --why ... decides by one of them"
        )
    counts = {
        "seen": one.ok.num_seen + one.nok.num_seen,
        "escapes": one.ok.num_wrong,
        "false_calls": one.nok.num_wrong,
    }
    return done(options, counts, reasons=reasons)


def _by_category(reviews: Sequence[Review]) -> list[dict[str, Any]]:
    return [
        {
            "category": category,
            "imported": len(own),
            "false_calls": _count(own, "NOK", "OK"),
            "escapes": _count(own, "OK", "NOK"),
            "confirmed": sum(one.called == one.verdict for one in own),
            "not_scored": sum(one.called == "ERROR" for one in own),
        }
        for category in sorted({one.category for one in reviews})
        for own in [[one for one in reviews if one.category == category]]
    ]


def _count(reviews: Sequence[Review], called: str, verdict: str) -> int:
    return sum((one.called, one.verdict) == (called, verdict) for one in reviews)


def _row(point: OperatingPoint) -> dict[str, Any]:
    from mrkd.evaluation.metrics.thresholds import PARTS

    row = {
        "rule": point.rule,
        "threshold": point.threshold,
        "false_calls_in_10000": _text(point.false_calls_in_10000),
        "escapes_in_10000": _text(point.escapes_in_10000),
    }
    return row if point.cost is None else row | {"cost_in_10000": PARTS * point.cost}


def _text(rate: Rate, factor: float = 1.0, unit: str = "") -> str:
    value, low, high = (factor * number for number in (rate.value, rate.low, rate.high))
    return f"{value:.1f}{unit} [{low:.1f}, {high:.1f}]"


GROUPS = {"review": "reviewers' verdicts on images: import them, and propose thresholds"}

COMMANDS: Mapping[str, Command] = {
    "review import": Command(
        "import reviewers' verdicts on the images of nights, from a table",
        _import,
        {
            "labels": argument(
                "LABELS.csv", "CSV file with columns uri, verdict (OK or NOK), who and when"
            ),
            **NIGHTS_WORKSPACE,
        },
    ),
    "review propose": Command(
        "estimate a model's error rates from these verdicts, and those of other thresholds",
        _propose,
        {
            "--category": argument("CATEGORY", "name of the category", required=True),
            "--version": argument("VERSION", "version of the model; default: the champion"),
            "--cost-escape": argument(
                "X",
                "cost of a defective part that is called good (default: 0, not known)",
                type=float,
                default=0.0,
            ),
            "--cost-false-call": argument(
                "X",
                "cost of a good part that is called defective, in the same currency "
                "(default: 0, not known)",
                type=float,
                default=0.0,
            ),
            **NIGHTS_WORKSPACE,
        },
    ),
}
