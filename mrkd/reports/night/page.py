"""The page of a night: the state of each line, images to look at, and drift."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mrkd.evaluation.threshold_rows import operating_row
from mrkd.nights.drift import MIN_NIGHTS, NUM_NIGHTS, Compared, Finding, Light, Lights, UsualRange
from mrkd.reports.kit import charts, page
from mrkd.reports.kit.values import Row
from mrkd.reports.night.load import NightData, ShownImage
from mrkd.reports.night.texts import ASPECTS, ERROR_WORDS, IMAGE_KINDS, MEASURES, STAGES

# With more lines a table scrolls by itself, and charts are drawn on demand.
_MANY = 24
_LIGHTS: tuple[Light, ...] = ("red", "amber", "green", "unknown")
_SHAPES = {"red": "\u25a0", "amber": "\u25b2", "green": "\u25cf", "unknown": "\u25cb"}
_REQUESTS = ("GET", "PUT", "HEAD", "LIST", "DELETE", "retried", "slowed")


def night_page(data: NightData) -> str:
    """The page of a night, see `page.render`."""
    archive = data.config.get("archive", {})
    lines = [_line(data, row) for row in data.compared]
    ok, nok, error = (sum(line["counts"][n] for line in lines) for n in range(3))
    error_rate = error / max(ok + nok + error, 1)
    shown = [*data.highest, *data.borderline, *data.audit]
    usual = {
        name: page.usual(one.image for one in shown if one.category == name)
        for name in {one.category for one in shown}
    }
    models = data.models.items()
    return page.render(
        "night.html.j2",
        teachers=sorted({model.card.teacher.name for _, model in models if model.card}),
        config=data.config,
        data=data,
        archive=archive.get("manifest") or archive.get("uri", ""),
        totals=(ok, nok, error),
        nok_rate=nok / (ok + nok) if ok + nok else None,
        error_rate=error_rate,
        open_items=list(_open_items(data, lines, error_rate)),
        warned={
            name: model.calibration.warning
            for name, model in models
            if model.calibration and model.calibration.warning
        },
        lines=lines,
        with_lines=any(row.line for row in data.compared),
        num_nights=len(data.before.profiles),
        min_nights=MIN_NIGHTS,
        max_nights=NUM_NIGHTS,
        drifting=[line for light in ("red", "amber") for line in lines if line["drift"] == light],
        steady=[line for line in lines if line["drift"] in ("green", "unknown")],
        drawn=[line for line in lines if line["charts"]],
        reviewed=[
            (one, [operating_row(one.category, point) for point in one.points])
            for one in data.reviewed
        ],
        image_kinds=[
            (*words, [_card(one, usual[one.category]) for one in getattr(data, words[0])])
            for words in IMAGE_KINDS
            if getattr(data, words[0])
        ],
        aspects=ASPECTS,
        measures=MEASURES,
        shapes=_SHAPES,
        error_words=ERROR_WORDS,
        **_columns(data.starts),
        took=page.took,
        many=_MANY,
    )


def _line(data: NightData, row: Compared) -> dict[str, Any]:
    """Values of the template for a category and line."""
    tonight, lights = row.tonight, data.lights.get((row.category, row.line))
    ok, nok, count = (tonight.num_ok, tonight.num_nok, tonight.num_images) if tonight else (0, 0, 0)
    rates = (tonight.nok_rate, tonight.error_rate) if tonight else (None, None)
    shown = [_light(aspect, getattr(lights, aspect)) for aspect in ASPECTS] if lights else []
    return {
        "row": row,
        "anchor": f"line-{row.category}/{row.line}",  # no category holds a slash
        "counts": (ok, nok, count - ok - nok),
        "volume": _measured(count, row.volume, page.count),
        "nok_rate": _measured(rates[0], row.nok_rate, page.percent),
        "error_rate": _measured(rates[1], row.error_rate, page.percent),
        "came": f"{len(row.before)} of {row.num_nights}",
        "charts": _history(data, row),
        "lights": shown,
        "drift": min((light["light"] for light in shown), key=_LIGHTS.index, default="none"),
    }


def _measured(value: float | None, band: UsualRange | None, words: Any) -> dict[str, Any]:
    """A cell: the value, its usual range, and the side of the range on which it lies."""
    side = band.side(value) if band and value is not None else 0
    return {
        "value": value,
        "text": "\N{EN DASH}" if value is None else words(value),
        "usual": f"{words(band.low)} to {words(band.high)}" if band else "",
        "median": words(band.median) if band else "",
        "side": {-1: "low", 0: "", 1: "high"}[side],
    }


def _light(aspect: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """One light, its worst figure in few words, and all its findings."""
    light = Lights.worst(findings)
    judged = [finding for finding in findings if finding.light == light]
    worst = max(judged, key=lambda one: abs(one.figure) / (one.amber or math.inf), default=None)
    text = MEASURES[worst.measure] if worst else None
    return {
        "aspect": aspect,
        "light": light,
        "rank": _LIGHTS.index(light),
        "short": text.moved(worst.figure) if text and worst else "",
        "words": text.change(worst.figure) if text and worst and light in ("red", "amber") else "",
        "findings": findings,
    }


def _history(data: NightData, row: Compared) -> list[charts.Spec]:
    """Charts of the nights before and this one; none with too few nights."""
    tonight = row.tonight
    if tonight is None or len(row.before) < MIN_NIGHTS:
        return []
    began = {night.run: night.began_at for night in data.before.profiles}
    times = [*(began[run] for run in row.runs), data.profile.closed_at]
    groups = [*row.before, tonight]
    volume = [float(group.num_images) for group in groups]
    rates = [group.nok_rate for group in groups]
    return [
        charts.history(times, volume, title="images", band=_ends(row.volume)),
        charts.history(times, rates, title="NOK rate", band=_ends(row.nok_rate), share=True),
    ]


def _ends(band: UsualRange | None) -> tuple[float, float, float] | None:
    return (band.low, band.median, band.high) if band else None


def _open_items(
    data: NightData, lines: Sequence[Row], error_rate: float
) -> Iterator[tuple[str, str]]:
    """Items that need attention, the most urgent first: a text and an anchor."""
    golden, parts = data.golden, data.parts
    if golden and golden["state"] != "passed":
        off = sum(bool(image["problem"]) for image in golden["images"])
        count = "1 reference part does" if off == 1 else f"{off} reference parts do"
        end = "was forced" if golden["forced"] else "stopped"
        yield f"{count} not score as it should: the night {end}", "golden"
    for line in lines:
        if line["row"].silent:
            came = f"images came in {line['came']} nights before"
            yield f"{line['row'].name}: nothing came; {came}", "lines"
    for line in lines:
        for light in line["lights"]:
            if light["light"] == "red":
                title = ASPECTS[light["aspect"]].title
                yield f"{line['row'].name}: {title} red, {light['words']}", line["anchor"]
    for category, model in data.models.items():
        if model.gap:
            yield f"{category}: {model.gap}", "models"
    allowed = data.config.get("max_error_share", 0.0)
    if error_rate > allowed:
        share = page.percent(error_rate)
        yield f"{share} of the images have no score, {page.percent(allowed)} are allowed", "errors"
    amber = [line["row"].name for line in lines if line["drift"] == "amber"]
    if amber:
        yield f"amber lights: {'; '.join(amber)}", "drift"
    if parts and parts["missing"]:
        lack = "1 part lacks" if parts["missing"] == 1 else f"{parts['missing']} parts lack"
        yield f"{lack} a view", "parts"


def _card(one: ShownImage, usual: float) -> dict[str, Any]:
    row = one.image.row
    facts = {"category": one.category} | ({"line": one.line} if one.line else {})
    facts |= {
        "score": page.score(row["image_score"]),
        "threshold": page.score(row["threshold"]),
        "apart": page.signed(one.margin),
    }
    if row["p_value"] is not None:
        facts["p-value"] = page.figure(row["p_value"])
    return page.card(one.image, facts, usual=usual, verdict="NOK" if row["is_anomalous"] else "OK")


def _columns(starts: Sequence[Row]) -> Mapping[str, list[str]]:
    """The stages and the requests that any start knows, in the page's order."""
    found = {stage for start in starts for stage in start["seconds"]}
    asked = {kind for start in starts for kind in start["requests"]}
    return {
        "stages": [*(s for s in STAGES if s in found), *sorted(found - set(STAGES))],
        "requests": [kind for kind in _REQUESTS if kind in asked],
    }
