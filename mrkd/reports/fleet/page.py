"""The page of a fleet: which categories have a model, how good it is, and what asks for people."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from mrkd.reports.fleet.values import FleetData, Gate, Training
from mrkd.reports.kit import charts, page
from mrkd.reports.kit.values import Measure, Picture

# In the order in which they ask for a reader: state -> title, explanation.
STATE_WORDS = {
    "failed": ("failed", "no new model"),
    "not_started": ("not started", "to be done"),
    "held": ("held back", "new, but not in use"),
    "trained": ("trained", "new models"),
    "up_to_date": ("up to date", "nothing to do"),
}
# Past so many categories a table scrolls by itself, and charts are drawn when they are asked for.
_MANY = 24
_SIDES = (
    ("trained on", charts.GOOD_COLOUR, "", "train"),
    ("validation", charts.APART_COLOUR, ".", "validation"),
    ("held out", charts.HELD_OUT_COLOUR, "/", "calibration"),
)


def fleet_page(data: FleetData) -> str:
    """The whole page as HTML that stands alone: it reads no other file and asks no network."""
    trainings = [_view(training) for training in data.trainings]
    shown = [view for view in trainings if view["version"]]
    return page.render(
        "fleet.html.j2",
        teachers=sorted({training.teacher for training in data.trainings}),
        config=data.config,
        run=data.run,
        workspace=data.workspace,
        root=data.root,
        state=data.state,
        **_times(data),
        **_counts(data.trainings),
        trainings=trainings,
        failed=[view for view in trainings if view["status"] == "failed"],
        not_started=_by_reason(data.trainings),
        held=[view for view in trainings if view["state"] == "held"],
        odd=[view for view in trainings if view["num_suspects"]],
        doubtful=[view for view in trainings if view["doubts"]],
        shown=shown,
        many=_MANY,
    )


def _times(data: FleetData) -> dict[str, Any]:
    began = datetime.fromisoformat(data.started_at)
    took = None
    if data.finished_at:
        took = (datetime.fromisoformat(data.finished_at) - began).total_seconds()
    return {"began": f"{began.astimezone(UTC):%Y-%m-%d %H:%M} UTC", "took": took}


def _counts(trainings: Sequence[Training]) -> dict[str, Any]:
    """The numbers at the top, each with its words, and what they come to in one sentence."""
    counts = Counter(training.status for training in trainings)
    counts["held"] = sum(training.gate.holds for training in trainings)
    done = counts["trained"] + counts["up_to_date"]
    verdict = f"{done} of {len(trainings)} categories have a model of today's images"
    if counts["held"]:
        verdict += f", {counts['held']} of them held back, where the model before goes on scoring"
    states = ("trained", "up_to_date", "held", "failed", "not_started")
    totals = [(state, counts[state], *STATE_WORDS[state]) for state in states]
    names = ("state", "count", "title", "words")
    return {
        "verdict": verdict,
        "totals": [dict(zip(names, total, strict=True)) for total in totals],
    }


def _by_reason(trainings: Sequence[Training]) -> dict[str, list[str]]:
    """The names of those that were not started, by why."""
    names = defaultdict(list)
    for training in trainings:
        if training.status == "not_started":
            names[training.reason].append(training.category)
    return dict(names)


def _view(training: Training) -> dict[str, Any]:
    """What the template shows of a category: its values, and what follows from them."""
    gate = training.gate
    state = "held" if gate.holds else training.status
    usual = page.usual(training.suspects)
    return {spec.name: getattr(training, spec.name) for spec in fields(training)} | {
        "name": training.category,
        "anchor": f"category-{training.category}",
        "look_anchor": f"look-{training.category}",
        "state": state,
        "rank": list(STATE_WORDS).index(state),
        "state_words": STATE_WORDS[state][0],
        "image_auroc": _known(gate.image_auroc),
        "champion_auroc": _known(gate.champion_auroc),
        "difference": _known(gate.difference),
        "measured": _measured(gate),
        "total_images": sum(training.num_images.values()),
        "total_s": sum(training.seconds.values()),
        "num_suspects": len(training.suspect_uris),
        # A JSON string is a TOML string too.
        "suspect_uris": [json.dumps(uri, ensure_ascii=False) for uri in training.suspect_uris],
        "cards": [_card(picture, training, usual) for picture in training.suspects],
        "losses": charts.losses(training.losses) if training.losses else None,
        "histogram": _histogram(training) if len(training.scores) else None,
    }


def _known(measure: Measure) -> Measure | None:
    return None if measure.value is None else measure


def _measured(gate: Gate) -> str:
    """By which images, in a few words."""
    if gate.by == "labels":
        return f"{gate.num_good} good, {gate.num_defective} defective"
    return f"{gate.num_defective} painted defects" if gate.by == "synthetic" else ""


def _card(picture: Picture, training: Training, usual: float) -> Mapping[str, Any]:
    facts = {"score": page.score(picture.image_score)}
    return page.card(picture, facts, usual=usual, pixel_threshold=training.pixel_threshold)


def _histogram(training: Training) -> charts.Spec:
    series = [
        charts.Series(name, colour, hatch, training.scores[training.sides == side])
        for name, colour, hatch, side in _SIDES
    ]
    return charts.histogram(series, threshold=training.threshold, share=True, small=True)
