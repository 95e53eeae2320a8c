"""The tables of an ablation as Markdown, for a paper or a wiki."""

from __future__ import annotations

from collections.abc import Iterator

from mrkd.reports.ablation.load import Scope, StudyData, TableData
from mrkd.reports.ablation.page import (
    MANY,
    PROTOCOLS,
    all_published,
    by_category,
    columns_of,
    compared_in,
    footnotes,
    published_text,
    quoted,
    scopes_of,
)
from mrkd.reports.kit import page
from mrkd.reports.kit.values import Row


def study_markdown(data: StudyData) -> str:
    """Every table, with the protocol and the images that it was measured on."""
    return "\n".join(_lines(data)) + "\n"


def _lines(data: StudyData) -> Iterator[str]:
    config = data.config
    yield f"# {data.record['run']}"
    yield ""
    seeds = "1 seed" if config.num_seeds == 1 else f"{config.num_seeds} seeds"
    yield (
        f"Protocol `{config.protocol}`: {PROTOCOLS[config.protocol]}. Part `{config.part}`, "
        f"{seeds}, teacher {', '.join(data.teachers)}; ended {data.record['finished_at']}."
    )
    yield ""
    for category in data.categories:
        yield f"- {category.name}: {category.num_train} images train, {category.num_judged} judge"
    for table in data.tables:
        yield ""
        yield f"## {table.title}{f' (the paper: {table.paper})' if table.paper else ''}"
        names = [one.name for one in data.categories]
        for scope in scopes_of(table, names if len(names) < MANY else []):
            yield ""
            yield from _scope(table, scope, len(names))
        if len(names) >= MANY:
            for column, title in columns_of(table, *names).items():
                yield ""
                yield "| " + " | ".join([title, *(one.name for one in table.variants)]) + " |"
                yield "|" + "---|" * (1 + len(table.variants))
                for name, cells in by_category(table, column, names):
                    yield "| " + " | ".join([name, *map(_figure, cells)]) + " |"
        yield ""
        yield from _notes(table, config.num_seeds)
    for category_name, variant, seed, error in data.failures:
        yield ""
        yield f"Failed: {category_name}, {variant}, seed {seed}: {error}"


def _scope(table: TableData, scope: Scope, num_categories: int) -> Iterator[str]:
    columns, compared = columns_of(table, scope), compared_in(table, scope)
    has_published = any(one.published for one in table.variants)
    heads = [scope or f"mean of {num_categories}", *columns.values()]
    heads += [head for title in compared.values() for head in (title, "says")]
    heads += ["loss fell at the end", "s a run"]
    heads += ["published, %"] if has_published else []
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for one in table.variants:
        cells = [one.name, *(_figure(one.figures.get(scope, {}).get(name)) for name in columns)]
        for name in compared:
            gap = one.differences.get(scope, {}).get(name)
            cells += [_figure(gap, "+"), gap["words"]] if gap else ["", ""]
        cells.append("" if one.plateau is None else page.percent(one.plateau))
        cells.append(f"{one.seconds:.0f}")
        if has_published:
            text = published_text(one.published.get(scope, {}))
            cells.append(f"~~{text}~~" if text and one.differs else text)
        yield "| " + " | ".join(cells) + " |"


def _notes(table: TableData, num_seeds: int) -> Iterator[str]:
    yield (
        f"{'Means over seeds' if num_seeds > 1 else 'One seed'}, with 95 % intervals over images, "
        "whole groups drawn as one; differences on the same images and seeds."
    )
    if different := footnotes(table):
        yield f"Struck out, as not comparable: {'; '.join(different)}."
    for variant, backbone, text in quoted(table.quoted):
        yield f"Published besides: {variant} ({backbone or 'another network'}) {text}."
    if sources := sorted({one.source for one in all_published(table)}):
        yield f"Published by: {'; '.join(sources)}."


def _figure(row: Row | None, sign: str = "") -> str:
    if row is None or row["value"] is None:
        return ""
    low, high = row["low"], row["high"]
    interval = "" if low is None else f" [{low:{sign}.3f}, {high:{sign}.3f}]"
    return f"{row['value']:{sign}.3f}{interval}"
