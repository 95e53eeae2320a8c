"""The page of a fleet: the state and quality of each category's model, and open items."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrkd.reports.fleet.load import LOSSES, FleetData, Training
from mrkd.reports.kit import charts, page
from mrkd.reports.kit.values import Row
from mrkd.training.fleet_store import doubts_of

# In the order in which they need attention: state -> title, explanation.
STATE_WORDS = {
    "failed": ("failed", "no new model"),
    "not_started": ("not started", "to be done"),
    "held": ("held back", "new, but not in use"),
    "trained": ("trained", "new models"),
    "up_to_date": ("up to date", "nothing to do"),
}
# Past so many categories a table scrolls by itself, and charts are drawn when they are asked for.
_MANY = 24
# The groups of a training that are shown, and the names of each.
_GROUPS, _NAMES = 12, 4
_SIDES = (
    ("trained on", charts.GOOD_COLOUR, "", "train"),
    ("validation", charts.APART_COLOUR, ".", "validation"),
    ("held out", charts.HELD_OUT_COLOUR, "/", "calibration"),
)


def fleet_page(data: FleetData) -> str:
    """The page of a fleet, see `page.render`."""
    record = data.record
    views = [_view(training) for training in data.trainings]
    return page.render(
        "fleet.html.j2",
        teachers=sorted({training.teacher for training in data.trainings}),
        config=record["config"],
        record=record,
        workspace=data.workspace,
        took=page.took(record["started_at"], record["finished_at"]),
        **_counts(data.trainings),
        trainings=views,
        failed=[view for view in views if view["state"] == "failed"],
        not_started=_by_reason(data.trainings),
        held=[view for view in views if view["state"] == "held"],
        odd=[view for view in views if view["data"].suspect_uris],
        doubtful=[view for view in views if view["doubts"]],
        shown=[view for view in views if view["version"]],
        many=_MANY,
    )


def _counts(trainings: Sequence[Training]) -> dict[str, Any]:
    """The numbers at the top, each with its words, and their sum in one sentence."""
    counts = Counter(training.record["status"] for training in trainings)
    counts["held"] = sum(training.is_held for training in trainings)
    done = counts["trained"] + counts["up_to_date"]
    verdict = f"{done} of {len(trainings)} categories have a model of today's images"
    if counts["held"]:
        verdict += f", {counts['held']} of them held back, where the model before goes on scoring"
    states = ("trained", "up_to_date", "held", "failed", "not_started")
    totals = [(state, counts[state], *STATE_WORDS[state]) for state in states]
    return {"verdict": verdict, "totals": totals}


def _by_reason(trainings: Sequence[Training]) -> dict[str, list[str]]:
    """The names of the categories that were not started, by reason."""
    names = defaultdict(list)
    for training in trainings:
        if training.record["status"] == "not_started":
            names[training.record["reason"]].append(training.record["category"])
    return dict(names)


def _view(training: Training) -> dict[str, Any]:
    """Values of the template for a category: its training, and what follows from it."""
    record, gate = training.record, training.gate
    state = "held" if training.is_held else record["status"]
    version = record.get("version", "")
    view: dict[str, Any] = {
        "data": training,
        "record": record,
        "gate": gate,
        "name": record["category"],
        "anchor": f"category-{record['category']}",
        "look_anchor": f"look-{record['category']}",
        "version": version,
        "state": state,
        "rank": list(STATE_WORDS).index(state),
        "state_words": STATE_WORDS[state][0],
        "reason": record.get("error") or record.get("reason", ""),
        "doubts": doubts_of(record) if version else [],
    }
    if not version:
        return view
    usual = page.usual(training.suspects)
    losses = training.losses
    champion = gate.get("champion") or {}
    return view | {
        "image_auroc": _known(gate.get("image_auroc")),
        "champion": champion.get("version"),
        "champion_auroc": _known(champion.get("image_auroc")),
        "difference": _known(gate.get("difference")),
        "measured": _measured(gate),
        "total_images": sum(record["num_images"].values()),
        "total_s": sum(record["seconds"].values()),
        "groups": _groups(training),
        # A JSON string is a TOML string too.
        "suspect_uris": [json.dumps(uri, ensure_ascii=False) for uri in training.suspect_uris],
        "cards": [
            page.card(image, {"score": page.score(image.row["image_score"])}, usual=usual)
            for image in training.suspects
        ],
        "losses": charts.losses(*(losses[name].to_numpy() for name in LOSSES)) if losses else None,
        "histogram": _histogram(training),
    }


def _known(measure: Row | None) -> Row | None:
    return measure if measure and measure["value"] is not None else None


def _measured(gate: Row) -> str:
    """The images that measured a model, in a few words."""
    if gate.get("by") == "labels":
        return f"{gate['num_good']} good, {gate['num_defective']} defective"
    return f"{gate['num_defective']} painted defects" if gate.get("by") == "synthetic" else ""


def _groups(training: Training) -> dict[str, Any]:
    """The number of groups of the good images, and the largest with some names of each."""
    scores = training.scores
    members: dict[int, list[str]] = defaultdict(list)
    if scores is not None and "group" in scores.column_names:
        for group, uri in zip(
            scores["group"].to_pylist(), scores["image_uri"].to_pylist(), strict=True
        ):
            members[group].append(uri.rpartition("/")[2])
    shared = sorted(sorted(some) for some in members.values() if len(some) > 1)
    shared.sort(key=len, reverse=True)
    largest = [(len(some), some[:_NAMES]) for some in shared[:_GROUPS]]
    return {"number": len(members), "largest": largest}


def _histogram(training: Training) -> charts.Spec | None:
    if not training.scores:
        return None
    scores = training.scores["image_score"].to_numpy()
    sides = np.array(training.scores["side"].to_pylist(), dtype=np.object_)
    series = [
        charts.Series(name, colour, hatch, scores[sides == side])
        for name, colour, hatch, side in _SIDES
    ]
    threshold = training.record["threshold"]
    return charts.histogram(series, threshold=threshold, share=True, small=True)
