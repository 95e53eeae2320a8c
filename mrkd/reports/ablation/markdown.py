"""The tables of a study as Markdown, for a paper or a wiki."""

from __future__ import annotations

from collections.abc import Iterator

from mrkd.reports.ablation.page import (
    MANY,
    PROTOCOLS,
    all_published,
    by_category,
    columns_of,
    compared_in,
    footnotes,
    places_of,
    published_text,
    quoted,
)
from mrkd.reports.ablation.values import Place, StudyData, TableData
from mrkd.reports.kit import page
from mrkd.reports.kit.values import Measure, MetricRow


def study_markdown(data: StudyData) -> str:
    """Every table, with what it was measured on."""
    return "\n".join(_lines(data)) + "\n"


def _lines(data: StudyData) -> Iterator[str]:
    yield f"# {data.run}"
    yield ""
    seeds = "1 seed" if data.num_seeds == 1 else f"{data.num_seeds} seeds"
    yield (
        f"Protocol `{data.protocol}`: {PROTOCOLS[data.protocol]}. Part `{data.part}`, {seeds}, "
        f"teacher {', '.join(data.teachers)}; ended {data.finished_at}."
    )
    yield ""
    for category in data.categories:
        yield f"- {category.name}: {category.num_train} images train, {category.num_judged} judge"
    for table in data.tables:
        yield ""
        yield f"## {table.title}{f' (the paper: {table.paper})' if table.paper else ''}"
        names = [one.name for one in data.categories]
        for place in places_of(table, names if len(names) < MANY else []):
            yield ""
            yield from _place(table, place, len(names))
        if len(names) >= MANY:
            for column, title in columns_of(table, *names).items():
                yield ""
                yield "| " + " | ".join([title, *(arm.name for arm in table.arms)]) + " |"
                yield "|" + "---|" * (1 + len(table.arms))
                for name, cells in by_category(table, column, names):
                    yield "| " + " | ".join([name, *map(_figure, cells)]) + " |"
        yield ""
        yield from _notes(table, data.num_seeds)
    for category_name, arm, seed, error in data.failures:
        yield ""
        yield f"Failed: {category_name}, {arm}, seed {seed}: {error}"


def _place(table: TableData, place: Place, num_categories: int) -> Iterator[str]:
    columns, compared = columns_of(table, place), compared_in(table, place)
    has_published = any(arm.published for arm in table.arms)
    heads = [place or f"mean of {num_categories}", *columns.values()]
    heads += [head for title in compared.values() for head in (title, "says")]
    heads += ["loss fell at the end", "s a run"]
    heads += ["published, %"] if has_published else []
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for arm in table.arms:
        cells = [arm.name, *(_figure(arm.figures.get(place, {}).get(name)) for name in columns)]
        for name in compared:
            gap = arm.differences.get(place, {}).get(name)
            cells += [_change(gap.measure), gap.words] if gap else ["", ""]
        cells.append("" if arm.plateau is None else page.percent(arm.plateau))
        cells.append(f"{arm.seconds:.0f}")
        if has_published:
            text = published_text(arm.published.get(place, {}))
            cells.append(f"~~{text}~~" if text and arm.differs else text)
        yield "| " + " | ".join(cells) + " |"


def _notes(table: TableData, num_seeds: int) -> Iterator[str]:
    yield (
        f"{'Means over seeds' if num_seeds > 1 else 'One seed'}, with 95 % intervals over images, "
        "whole groups drawn as one; differences on the same images and seeds."
    )
    if different := footnotes(table):
        yield f"Struck out, as not comparable: {'; '.join(different)}."
    for one in quoted(table.quoted):
        network = one["backbone"] or "another network"
        yield f"Published besides: {one['arm']} ({network}) {one['text']}."
    if sources := sorted({one.source for one in all_published(table)}):
        yield f"Published by: {'; '.join(sources)}."


def _figure(row: MetricRow | None) -> str:
    if row is None or row.value is None:
        return ""
    interval = "" if row.low is None else f" [{row.low:.3f}, {row.high:.3f}]"
    return f"{row.value:.3f}{interval}"


def _change(measure: Measure) -> str:
    if measure.value is None:
        return ""
    interval = "" if measure.low is None else f" [{measure.low:+.3f}, {measure.high:+.3f}]"
    return f"{measure.value:+.3f}{interval}"
