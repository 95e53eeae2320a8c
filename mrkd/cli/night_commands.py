"""`mrkd nights ...`: commands that read stored nights and score nothing."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace

from mrkd.cli.command import NIGHTS_WORKSPACE, Command, argument, done, print_table, user
from mrkd.config import check_name
from mrkd.config.toml import check_range
from mrkd.errors import MrkdError
from mrkd.run_summary import Summary

_SHOWN = 20


def _compare(options: argparse.Namespace) -> Summary:
    from mrkd import reports, storage
    from mrkd.nights import compare_nights

    found = compare_nights.compare(options.workspace, options.run_a, options.run_b)
    print_table(found.table())
    uri = storage.join(found.uri, "summary.json")
    uris = {"comparison": found.store(), "report": reports.write_page(found.uri)}
    counts = found.counts
    reasons = []
    if counts["images"] == counts["only_a"] + counts["only_b"]:
        reasons.append("the nights have no image in common: were they run over one archive?")
    if counts["other_images"]:
        reasons.append(f"{counts['other_images']} images have other bytes in the second night")
    uris |= {"summary": uri}
    summary = done(options, counts, uris=uris, reasons=reasons)
    storage.write_json(uri, summary.to_dict())
    return summary


def _try_threshold(options: argparse.Namespace) -> Summary:
    from mrkd import storage
    from mrkd.nights import try_threshold

    check_name("run", options.run)
    check_range("--threshold", options.threshold, -1e30, 1e30)
    night_uri = storage.join(options.workspace, "nights", options.run)
    trial = try_threshold.try_threshold(night_uri, options.category, options.threshold)
    print_table(trial.models)
    print_table(trial.flips.slice(0, _SHOWN).to_pylist())
    reasons = []
    if len(trial.models) > 1:
        reasons.append(
            f"{len(trial.models)} models or calibrations decided in this night, and scores of "
            "different models have scales of their own"
        )
    if trial.flips.num_rows > _SHOWN:
        reasons.append(
            f"of {trial.flips.num_rows} images that would be judged otherwise the {_SHOWN} "
            "nearest to the threshold are shown"
        )
    return done(options, trial.counts, reasons=reasons)


def _show(options: argparse.Namespace) -> Summary:
    from mrkd import storage
    from mrkd.nights import image_history

    found = image_history.history(options.workspace, options.image_uri, maps=bool(options.page))
    print_table([one.line() for one in found])
    verdicts = [one.called for one in found]
    counts = {"rows": len(found), "nights": len({one.run for one in found})}
    counts |= {name.lower(): verdicts.count(name) for name in ("OK", "NOK", "ERROR")}
    uris = {}
    if options.page:
        # Not above: with all its pages it loads longer than rows are found.
        from mrkd import reports

        uris["report"] = storage.join(options.page)
        uri = storage.join(options.image_uri)
        storage.write(options.page, reports.history_page(options.workspace, uri, found).encode())
    return done(options, counts, uris=uris)


def _prune(options: argparse.Namespace) -> Summary:
    from mrkd.config import durations
    from mrkd.nights import prune_maps

    found = prune_maps.due(options.workspace, durations.parse("--older-than", options.older_than))
    reasons: list[str] = []
    if options.yes:
        due, found = found, []
        for one in due:
            try:
                found.append(
                    prune_maps.prune(
                        options.workspace, one, by=user(), older_than=options.older_than
                    )
                )
            except MrkdError as error:  # a busy night does not stop the rest
                reasons.append(str(error))
    elif found:
        reasons = ["nothing was deleted: --yes takes the maps out of these nights for good"]
    names = ("run", "closed_at", "revisions", "shards", "bytes_before", "bytes_after")
    print_table([{name: getattr(one, name) for name in names} for one in found])
    counts = {name: sum(getattr(one, name) for one in found) for name in names[3:]}
    counts = {"nights": len(found), **counts}
    summary = done(options, counts, reasons=reasons)
    return replace(summary, exit_code=1, state="failed") if options.yes and reasons else summary


GROUPS = {"nights": "stored nights: compare, try another threshold, show an image, delete maps"}

COMMANDS: Mapping[str, Command] = {
    "nights compare": Command(
        "compare how two nights over the same images decided; writes a report",
        _compare,
        {
            "run_a": argument("RUN_A", "name of the first night"),
            "run_b": argument("RUN_B", "name of the second night"),
            **NIGHTS_WORKSPACE,
        },
    ),
    "nights show": Command(
        "show one image's rows in all nights, the models that decided and who promoted them",
        _show,
        {
            "image_uri": argument(
                "IMAGE_URI", "URI of the image as listed; of a tar's member: <tar>#<member>"
            ),
            "--page": argument("FILE.html", "also write a page with the maps here"),
            **NIGHTS_WORKSPACE,
        },
    ),
    "nights prune": Command(
        "delete the maps of old nights for good; scores, regions and models stay",
        _prune,
        {
            "--older-than": argument("AGE", "least age of the nights, such as 90d", required=True),
            "--yes": {
                "action": "store_true",
                "help": "delete them; without it they are only listed",
            },
            **NIGHTS_WORKSPACE,
        },
    ),
    "nights try-threshold": Command(
        "show what another threshold would have decided, from the stored scores",
        _try_threshold,
        {
            "run": argument("RUN", "name of the night"),
            "--category": argument("CATEGORY", "name of the category", required=True),
            "--threshold": argument(
                "X", "score above which an image is defective", type=float, required=True
            ),
            **NIGHTS_WORKSPACE,
        },
    ),
}
