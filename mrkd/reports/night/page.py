"""The page of a night: is the line well, which parts to look at, and does anything drift."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from mrkd.evaluation.threshold_rows import operating_row
from mrkd.nights.drift import MIN_NIGHTS, NUM_NIGHTS, Compared, Finding, Light, Lights, UsualRange
from mrkd.nights.reviews.error_rates import Reviewed
from mrkd.reports.kit import charts, page
from mrkd.reports.night.texts import ASPECTS, ERROR_WORDS, MEASURES, STAGES
from mrkd.reports.night.values import NightData, ShownImage, Start

# Past so many lines a table scrolls by itself, and charts are drawn when they are asked for.
_MANY = 24
_LIGHTS: tuple[Light, ...] = ("red", "amber", "green", "unknown")
_SHAPES = {"red": "\u25a0", "amber": "\u25b2", "green": "\u25cf", "unknown": "\u25cb"}
_REQUESTS = ("GET", "PUT", "HEAD", "LIST", "DELETE", "retried", "slowed")


def night_page(data: NightData) -> str:
    """The whole page as HTML that stands alone: it reads no other file and asks no network."""
    lines = [_line(data, row) for row in data.compared]
    ok, nok, error = (sum(line["counts"][n] for line in lines) for n in range(3))
    shown = [*data.highest, *data.borderline, *data.audit]
    usual = {
        name: page.usual(one.picture for one in shown if one.category == name)
        for name in {one.category for one in shown}
    }
    teachers = {scoring.model.teacher for scoring in data.scorings if scoring.model}
    return page.render(
        "night.html.j2",
        teachers=sorted(teachers),
        config=data.config,
        data=data,
        closed=_minute(data.closed_at),
        totals=(ok, nok, error),
        nok_rate=nok / (ok + nok) if ok + nok else None,
        error_rate=error / (ok + nok + error) if lines else 0.0,
        asks=list(_asks(data, lines, error / max(ok + nok + error, 1))),
        lines=lines,
        with_lines=any(line["line"] for line in lines),
        num_nights=len(data.nights),
        min_nights=MIN_NIGHTS,
        max_nights=NUM_NIGHTS,
        drifting=[line for light in ("red", "amber") for line in lines if line["drift"] == light],
        steady=[line for line in lines if line["drift"] in ("green", "unknown")],
        drawn=[line for line in lines if line["charts"]],
        reviewed=[_reviewed(one) for one in data.reviewed],
        pictures=_pictures(data, usual),
        aspects=ASPECTS,
        error_words=ERROR_WORDS,
        **_running(data.starts),
        many=_MANY,
    )


def _line(data: NightData, row: Compared) -> dict[str, Any]:
    """What the template shows of a category and line."""
    tonight, lights = row.tonight, data.lights.get((row.category, row.line))
    ok, nok = (tonight.num_ok, tonight.num_nok) if tonight else (0, 0)
    view: dict[str, Any] = {
        "category": row.category,
        "line": row.line,
        "name": row.name,
        "anchor": f"line-{row.category}/{row.line}",  # no category holds a slash
        "silent": row.silent,
        "counts": (ok, nok, tonight.num_images - ok - nok if tonight else 0),
        "volume": _measured(tonight.num_images if tonight else 0, row.volume, page.count),
        "nok_rate": _measured(tonight.nok_rate if tonight else None, row.nok_rate, page.percent),
        "error_rate": _measured(
            tonight.error_rate if tonight else None, row.error_rate, page.percent
        ),
        "came": f"{len(row.before)} of {row.num_nights}",
        "model": tonight.model if tonight else ("", 0),
        "charts": _history(data, row),
    }
    view["lights"] = (
        [_light(aspect, getattr(lights, aspect)) for aspect in ASPECTS] if lights else []
    )
    order = [light["light"] for light in view["lights"]]
    return view | {"drift": min(order, key=_LIGHTS.index, default="none")}


def _reviewed(one: Reviewed) -> dict[str, Any]:
    """What the template shows of people's verdicts on a category."""
    points = [operating_row(one.category, point) for point in one.points]
    return {
        "category": one.category,
        "ok": one.ok,
        "nok": one.nok,
        "points": points,
        "gap": one.gap,
    }


def _measured(value: float | None, band: UsualRange | None, words: Any) -> dict[str, Any]:
    """A cell: the value, what is usual, and on which side of it the value lies."""
    side = band.side(value) if band and value is not None else 0
    return {
        "value": value,
        "text": "\N{EN DASH}" if value is None else words(value),
        "usual": f"{words(band.low)} to {words(band.high)}" if band else "",
        "median": words(band.median) if band else "",
        "side": {-1: "low", 0: "", 1: "high"}[side],
    }


def _light(aspect: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """One light, its worst figure in few words, and all that it was judged by."""
    light = Lights.worst(findings)
    judged = [finding for finding in findings if finding.light == light]
    worst = max(judged, key=lambda one: abs(one.figure) / (one.amber or math.inf), default=None)
    return {
        "aspect": aspect,
        "light": light,
        "shape": _SHAPES[light],
        "rank": _LIGHTS.index(light),
        "short": MEASURES[worst.measure].moved(worst.figure) if worst else "",
        "words": _moved(worst) if worst and light in ("red", "amber") else "",
        "findings": [_finding(finding) for finding in findings],
    }


def _moved(finding: Finding) -> str:
    words = MEASURES[finding.measure]
    return f"{words.figure(finding.figure)} {words.moved(finding.figure)}".strip()


def _finding(finding: Finding) -> dict[str, Any]:
    words = MEASURES[finding.measure]
    against = {"calibration": "calibration images", "nights": "earlier nights"}
    known = finding.light != "unknown"
    return {
        "title": words.title,
        "against": against[finding.against],
        "light": finding.light,
        "shape": _SHAPES[finding.light],
        "now": words.value(finding.now) if known and words.value else "",
        "usual": words.value(finding.usual) if known and words.value else "",
        "moved": _moved(finding) if known else "",
        "amber": words.limit(finding.amber) if known else "",
        "red": words.limit(finding.red) if math.isfinite(finding.red) else "never",
        "reason": finding.reason,
    }


def _history(data: NightData, row: Compared) -> list[charts.Spec]:
    """Charts of the nights before and this one; none where these are too few to say anything."""
    tonight = row.tonight
    if tonight is None or len(row.before) < MIN_NIGHTS:
        return []
    began = dict(data.nights)
    times = [*(began[run] for run in row.runs), data.closed_at]
    groups = [*row.before, tonight]
    volume = [float(group.num_images) for group in groups]
    rates = [group.nok_rate for group in groups]
    return [
        charts.history(times, volume, title="images", band=_ends(row.volume)),
        charts.history(times, rates, title="NOK rate", band=_ends(row.nok_rate), share=True),
    ]


def _ends(band: UsualRange | None) -> tuple[float, float, float] | None:
    return (band.low, band.median, band.high) if band else None


def _asks(
    data: NightData, lines: Sequence[dict[str, Any]], error_rate: float
) -> Iterator[dict[str, str]]:
    """What asks for people, the most urgent first: a text, and where the page says more."""

    def ask(text: str, anchor: str) -> dict[str, str]:
        return {"text": text, "anchor": anchor}

    if data.golden and data.golden.state != "passed":
        off = sum(bool(image.problem) for image in data.golden.images)
        parts = "1 reference part does" if off == 1 else f"{off} reference parts do"
        end = "was forced" if data.golden.forced else "stopped"
        yield ask(f"{parts} not score as it should: the night {end}", "golden")
    for line in lines:
        if line["silent"]:
            came = line["came"]
            yield ask(f"{line['name']}: nothing came; images came in {came} nights before", "lines")
    for line in lines:
        for light in line["lights"]:
            if light["light"] == "red":
                title = ASPECTS[light["aspect"]].title
                yield ask(f"{line['name']}: {title} red, {light['words']}", line["anchor"])
    for scoring in data.scorings:
        if scoring.model is None:
            yield ask(f"{scoring.category}: {scoring.gap}", "models")
    if error_rate > data.max_error_share:
        share, allowed = page.percent(error_rate), page.percent(data.max_error_share)
        yield ask(f"{share} of the images have no score, {allowed} are allowed", "errors")
    amber = [line["name"] for line in lines if line["drift"] == "amber"]
    if amber:
        yield ask(f"amber lights: {'; '.join(amber)}", "drift")
    if data.parts and data.parts.missing:
        lack = "1 part lacks" if data.parts.missing == 1 else f"{data.parts.missing} parts lack"
        yield ask(f"{lack} a view", "parts")


def _pictures(data: NightData, usual: dict[str, float]) -> list[dict[str, Any]]:
    kinds = (
        (
            "highest",
            "Called defective",
            data.highest,
            "The images furthest above their threshold, each category's furthest first.",
        ),
        (
            "borderline",
            "Borderline",
            data.borderline,
            "The closest calls, good or defective: look here first when you think of moving a "
            "threshold.",
        ),
        (
            "audit",
            "Called good, drawn at random",
            data.audit,
            "For audit: a person who looks at these every night learns what slips through. The "
            "draw hangs on the night's name alone.",
        ),
    )
    return [
        {
            "anchor": anchor,
            "title": title,
            "words": words,
            "cards": [_card(one, usual[one.category]) for one in shown],
        }
        for anchor, title, shown, words in kinds
        if shown
    ]


def _card(one: ShownImage, usual: float) -> dict[str, Any]:
    picture = one.picture
    facts = {"category": one.category} | ({"line": one.line} if one.line else {})
    facts |= {
        "score": page.score(picture.image_score),
        "threshold": page.score(one.threshold),
        "apart": page.signed(one.margin),
    }
    if picture.p_value is not None:
        facts["p-value"] = page.figure(picture.p_value)
    card = page.card(picture, facts, usual=usual, pixel_threshold=one.pixel_threshold)
    return card | {"verdict": "NOK" if picture.is_anomalous else "OK"}


def _running(starts: Sequence[Start]) -> dict[str, Any]:
    """The starts, with the stages and requests that any of them knows as columns."""
    stages = [stage for stage in STAGES if any(stage in start.seconds for start in starts)]
    stages += sorted({stage for start in starts for stage in start.seconds} - set(stages))
    requests = [kind for kind in _REQUESTS if any(kind in start.requests for start in starts)]
    return {
        "stages": stages,
        "requests": requests,
        "starts": [
            {
                "revision": start.revision,
                "began": _minute(start.started_at),
                "took": _took(start),
                "images": start.images,
                "images_per_s": start.images_per_s,
                "seconds": [start.seconds.get(stage) for stage in stages],
                "requests": [start.requests.get(kind, 0) for kind in requests],
                "peak": start.peak_rss_bytes,
                "attempts": start.attempts,
            }
            for start in starts
        ],
    }


def _took(start: Start) -> float | None:
    if not start.finished_at:
        return None
    ends = (datetime.fromisoformat(text) for text in (start.finished_at, start.started_at))
    finished, started = ends
    return (finished - started).total_seconds()


def _minute(at: str) -> str:
    return f"{datetime.fromisoformat(at).astimezone(UTC):%Y-%m-%d %H:%M} UTC" if at else "unknown"
