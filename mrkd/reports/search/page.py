"""The page of a search: which config to take, and what the trials can and cannot show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from mrkd.reports.kit import page
from mrkd.reports.search import charts as search_charts
from mrkd.reports.search.values import Candidate, SearchData, SearchGroup, Test
from mrkd.training.search.effects import label

_METRICS = {"image_auroc": "image AUROC", "aupro": "AUPRO"}
_BY = {
    "labels": "labelled images of the half kept for choosing",
    "synthetic": "defects drawn on good images that no training used",
}


def search_page(data: SearchData) -> str:
    """The page as HTML that stands alone.

    Args:
        data: everything it shows.
    """
    began, ended = map(datetime.fromisoformat, (data.started_at, data.finished_at))
    return page.render(
        "search.html.j2",
        teachers=(),
        config=data.config,
        run=data.run,
        workspace=data.workspace,
        root=data.root,
        began=f"{began.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        ended=f"{ended.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        trained_s=sum(one.seconds for group in data.groups for one in group.trials),
        metric=_METRICS[data.metric],
        space=data.space,
        fixed=_fixed(data),
        groups=[_group(one, data) for one in data.groups],
        best_toml=data.best_toml,
        search_uri=f"{data.workspace}/searches/{data.run}",
    )


def _fixed(data: SearchData) -> dict[str, Any]:
    """What a reader may expect to have been varied, and was not."""
    config = data.config
    keys = {
        f"{section}.{name}": value
        for section in ("model", "train")
        for name, value in config[section].items()
    }
    shown = (
        "model.preset model.backbone model.image_size model.levels model.fmm model.scconv "
        "model.simam model.image_score model.smooth train.mask_rate train.learning_rate "
        "train.weight_decay train.max_steps train.batch_size"
    )
    return {key: keys[key] for key in shown.split() if key not in data.space}


def _group(group: SearchGroup, data: SearchData) -> dict[str, Any]:
    metric = _METRICS[data.metric]
    values = {one.key: one.values for one in group.trials}
    keys = list(group.configs)
    found = [group.configs[key] for key in keys]
    finished = {key: [t for t in group.trials if t.key == key] for key in keys}
    seconds = [sum(t.seconds for t in finished[key]) for key in keys]
    sizes = [sum(t.model_bytes for t in finished[key]) / 1e6 for key in keys]
    states = [one.state for one in group.trials]
    charts: dict[str, Any] = {"parallel": None, "responses": [], "pareto": []}
    if group.compared:
        compared, alike = [values[key] for key in group.compared], list(group.compared.values())
        log_keys = {effect.key for effect in group.effects if effect.is_log}
        charts["parallel"] = search_charts.parallel(
            compared, alike, log_keys=log_keys, metric=metric
        )
        charts["responses"] = [
            search_charts.response(
                effect, [one[effect.key] for one in compared], alike, metric=metric
            )
            for effect in group.effects
        ]
    if keys:
        charts["pareto"] = [
            search_charts.pareto(costs, found, keys, title=title, metric=metric)
            for costs, title in ((seconds, "seconds of a trial"), (sizes, "model, MB"))
        ]
    return {
        "name": ", ".join(group.categories),
        "anchor": f"group-{group.categories[0]}",
        "counts": {
            "tried": len({one.key for one in group.trials}),
            "finished": len(keys),
            "pruned": states.count("pruned"),
            "failed": states.count("failed") + states.count("out_of_memory"),
        },
        "board": [_row(one, place) for place, one in enumerate(group.board, start=1)],
        "joint": len(group.categories) > 1,
        "verdict": _verdict(group, metric),
        "tests": [_test(one) for one in group.tests],
        "by": _BY[group.tests[0].by] if group.tests else "",
        "effects": [one.words for one in group.effects],
        "compared": _compared(group),
        "importance": search_charts.importance(group.importance) if group.importance else None,
        "no_importance": group.no_importance,
        "learning": [
            (name, search_charts.learning(mine, group.configs))
            for name in group.categories
            if (mine := [t for t in group.trials if t.category == name])
        ],
        "errors": [
            {"config": one.key, "category": one.category, "state": one.state, "error": one.error}
            for one in group.trials
            if one.error
        ],
        **charts,
    }


def _compared(group: SearchGroup) -> str:
    """Which trials charts and words of the keys are drawn from."""
    if group.compared_epochs is None:
        return "Of the trials that came to their end, at one seed each"
    after = f"{group.compared_epochs} epoch" + ("s" if group.compared_epochs > 1 else "")
    return (
        f"Of all {len(group.compared)} trials, as they were measured after {after}: only "
        f"{len(group.configs)} came to their end, and those the scheduler had chosen. What learns "
        "fast looks better here than what learns long"
    )


def _row(one: Candidate, place: int) -> dict[str, Any]:
    mean = sum(one.objectives) / len(one.objectives)
    return {
        "place": place,
        "config": one.config,
        "is_default": one.is_default,
        "values": {key: _short(value) for key, value in one.values.items()},
        "mean": mean,
        "low": min(one.objectives),
        "high": max(one.objectives),
        "num_seeds": len(one.objectives),
        "mean_rank": one.mean_rank,
        "false_call_rate": one.false_call_rate,
        "seconds": one.seconds,
        "model_bytes": one.model_bytes,
    }


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else label(value)


def _test(one: Test) -> Mapping[str, Any]:
    return {
        "category": one.category,
        "winner": one.winner,
        "default": one.default if one.default.value is not None else None,
        "difference": one.difference if one.difference.value is not None else None,
        "aupro": one.aupro,
        "false_call_rate": one.false_call_rate,
        "images": f"{one.num_good} good, {one.num_defective} "
        + ("defective" if one.by == "labels" else "with drawn defects"),
        "optimism": one.optimism,
    }


def _verdict(group: SearchGroup, metric: str) -> str:
    """In one sentence, and no more than the test shows."""
    if not group.board:
        return "No training came to its end: see the errors below"
    if group.board[0].is_default:
        return "Nothing that was tried is better than the config the search began with: keep it"
    if not group.tests:
        return "The winner was not tested: the summary of the search gives the reason"
    better, worse, unsure = _sorted_by_test(group.tests)
    if better and not worse and not unsure:
        return f"The winner is better than the default on the test, by {metric}"
    if worse:
        return (
            "On the test the winner is worse than the default"
            + (f" for {', '.join(worse)}" if len(group.tests) > 1 else "")
            + ": keep the default"
        )
    return (
        "On the test these data can show no difference between the winner and the default: the "
        "interval of the difference holds 0"
    )


def _sorted_by_test(tests: Sequence[Test]) -> tuple[list[str], list[str], list[str]]:
    better, worse, unsure = [], [], []
    for one in tests:
        low, high = one.difference.low, one.difference.high
        if low is not None and low > 0:
            better.append(one.category)
        elif high is not None and high < 0:
            worse.append(one.category)
        else:
            unsure.append(one.category)
    return better, worse, unsure
