"""The page of a comparison: what two nights say differently of the same images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import PurePosixPath
from typing import Any

from mrkd.nights.compare_nights import CategoryChange
from mrkd.reports.comparison.values import ComparisonData, Pair, Seen
from mrkd.reports.kit import page

_ARROW = "\N{RIGHTWARDS ARROW}"
# In the order of the page: change -> title.
CHANGE_WORDS = {
    "ok_to_nok": f"OK {_ARROW} NOK",
    "nok_to_ok": f"NOK {_ARROW} OK",
    "to_error": f"{_ARROW} ERROR",
    "from_error": f"ERROR {_ARROW}",
    "only_a": "only in A",
    "only_b": "only in B",
}
_VERDICTS = ("ok_to_nok", "nok_to_ok", "to_error", "from_error")


def comparison_page(data: ComparisonData) -> str:
    """The whole page as HTML that stands alone: it reads no other file and asks no network."""
    usual = {side: _usual(data, side) for side in ("a", "b")}
    return page.render(
        "comparison.html.j2",
        teachers=data.teachers,
        config=data.config,
        run_a=data.run_a,
        run_b=data.run_b,
        verdict=_verdict(data.counts),
        counts=data.counts,
        changes=CHANGE_WORDS,
        categories=[_category(one) for one in data.categories],
        pairs=[_pair(one, data, usual) for one in data.worst],
        gaps=data.gaps,
    )


def _verdict(counts: Mapping[str, int]) -> str:
    """What it comes to, in one sentence."""
    common = counts["images"] - counts["only_a"] - counts["only_b"]
    differ = sum(counts[name] for name in _VERDICTS)
    if not common:
        return "The nights have no image in common"
    if not differ:
        return f"Both nights judge all images that they have in common alike, {common} in all"
    told = ", ".join(f"{counts[name]} {CHANGE_WORDS[name]}" for name in _VERDICTS if counts[name])
    return f"{differ} of {common} images in common are judged differently: {told}"


def _category(one: CategoryChange) -> dict[str, Any]:
    return {spec.name: getattr(one, spec.name) for spec in fields(one)} | {
        "differ": sum(one.changes[name] for name in _VERDICTS),
        "same_models": one.models_a == one.models_b,
    }


def _usual(data: ComparisonData, side: str) -> dict[str, float]:
    """What is usual in each category's maps: two models' maps have scales of their own."""
    return {
        one.category: page.usual(
            getattr(pair, side).picture for pair in data.worst if pair.category == one.category
        )
        for one in data.categories
    }


def _pair(pair: Pair, data: ComparisonData, usual: Mapping[str, Mapping[str, float]]) -> Any:
    runs = {"a": data.run_a, "b": data.run_b}
    flipped = pair.a.verdict != pair.b.verdict
    return {
        "name": PurePosixPath(pair.image_uri).name,
        "uri": pair.image_uri,
        "category": pair.category,
        "flipped": flipped,
        "cards": [
            _card(
                getattr(pair, side),
                rank,
                f"{side.upper()}: {runs[side]}",
                usual[side][pair.category],
            )
            for side, rank in (("a", pair.rank_a), ("b", pair.rank_b))
        ],
    }


def _card(seen: Seen, rank: float, name: str, usual: float) -> dict[str, Any]:
    picture = seen.picture
    facts = {
        "score": page.score(picture.image_score),
        "threshold": page.score(seen.threshold),
        "p-value": "unknown" if picture.p_value is None else page.figure(picture.p_value),
        "rank": page.percent(rank),
    }
    card = page.card(picture, facts, usual=usual, pixel_threshold=seen.pixel_threshold)
    return card | {"name": name, "verdict": seen.verdict}
