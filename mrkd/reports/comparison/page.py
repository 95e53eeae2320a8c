"""The page of a comparison: images that two nights judge differently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mrkd.reports.comparison.load import ComparisonData
from mrkd.reports.kit import page
from mrkd.reports.kit.values import Row

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
    """The page of a comparison, see `page.render`."""
    found = data.found
    counts = found.counts
    return page.render(
        "comparison.html.j2",
        teachers=data.teachers,
        config=data.config,
        found=found,
        verdict=_verdict(counts),
        counts=counts,
        changes=CHANGE_WORDS,
        categories=[
            (one, sum(one.changes[name] for name in _VERDICTS)) for one in found.categories
        ],
        pairs=_pairs(data),
        gaps=data.gaps,
    )


def _verdict(counts: Mapping[str, int]) -> str:
    """The result in one sentence."""
    common = counts["images"] - counts["only_a"] - counts["only_b"]
    differ = sum(counts[name] for name in _VERDICTS)
    if not common:
        return "The nights have no image in common"
    if not differ:
        return f"Both nights judge all images that they have in common alike, {common} in all"
    changes = ", ".join(
        f"{counts[name]} {CHANGE_WORDS[name]}" for name in _VERDICTS if counts[name]
    )
    return f"{differ} of {common} images in common are judged differently: {changes}"


def _pairs(data: ComparisonData) -> list[dict[str, Any]]:
    """Values of the template for each pair: its row, and a card for each night."""
    found = data.found
    sides = (("a", f"A: {found.run_a}"), ("b", f"B: {found.run_b}"))
    # The usual value in each category's maps: two models' maps have scales of their own.
    usual = {
        (category, side): page.usual(
            getattr(pair, side) for pair in data.worst if pair.row["category"] == category
        )
        for category in {pair.row["category"] for pair in data.worst}
        for side, _ in sides
    }
    return [
        {
            "row": pair.row,
            "name": pair.a.name,
            "cards": [
                page.card(
                    getattr(pair, side),
                    _facts(pair.row, side),
                    usual=usual[pair.row["category"], side],
                    verdict=pair.row[f"verdict_{side}"],
                    name=name,
                )
                for side, name in sides
            ],
        }
        for pair in data.worst
    ]


def _facts(row: Row, side: str) -> dict[str, str]:
    p_value = row[f"p_value_{side}"]
    return {
        "score": page.score(row[f"image_score_{side}"]),
        "threshold": page.score(row[f"threshold_{side}"]),
        "p-value": "unknown" if p_value is None else page.figure(p_value),
        "rank": page.percent(row[f"rank_{side}"]),
    }
