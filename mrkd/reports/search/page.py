"""The page of a search: the best config, and what the trials can and cannot show."""

from __future__ import annotations

from typing import Any

from mrkd.reports.kit import page
from mrkd.reports.kit.values import Row
from mrkd.reports.search import charts as search_charts
from mrkd.reports.search.load import SearchData, SearchGroup

_METRICS = {"image_auroc": "image AUROC", "aupro": "AUPRO"}
_BY = {
    "labels": "labelled images of the half kept for choosing",
    "synthetic": "defects drawn on good images that no training used",
}


def search_page(data: SearchData) -> str:
    """The page of a search, see `page.render`."""
    record = data.record
    metric = _METRICS[record["config"]["search"]["metric"]]
    return page.render(
        "search.html.j2",
        teachers=(),
        config=record["config"],
        record=record,
        trained_s=sum(one.seconds for group in data.groups for one in group.trials),
        metric=metric,
        fixed=_fixed(record),
        groups=[_group(one, metric) for one in data.groups],
        best_toml=data.best_toml,
        search_uri=f"{data.workspace}/searches/{record['run']}",
    )


def _fixed(record: Row) -> dict[str, Any]:
    """The keys that a reader may expect to have been varied, and were not."""
    config = record["config"]
    shown = (
        "model.preset model.backbone model.image_size model.levels model.fmm model.scconv "
        "model.simam model.image_score model.smooth train.mask_rate train.learning_rate "
        "train.weight_decay train.max_steps train.batch_size"
    )
    pairs = (key.split(".") for key in shown.split() if key not in record["space"])
    return {f"{section}.{name}": config[section][name] for section, name in pairs}


def _group(group: SearchGroup, metric: str) -> dict[str, Any]:
    record = group.record
    categories = record["categories"]
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
            search_charts.response(one, [c[one.key] for c in compared], alike, metric=metric)
            for one in group.effects
        ]
    if keys:
        charts["pareto"] = [
            search_charts.pareto(costs, found, keys, title=title, metric=metric)
            for costs, title in ((seconds, "seconds of a trial"), (sizes, "model, MB"))
        ]
    return {
        "name": ", ".join(categories),
        "anchor": f"group-{categories[0]}",
        "counts": {
            "tried": len({one.key for one in group.trials}),
            "finished": len(keys),
            "pruned": states.count("pruned"),
            "failed": states.count("failed") + states.count("out_of_memory"),
        },
        "board": [
            {
                **row,
                "values": {
                    key: search_charts.text_of(value) for key, value in row["values"].items()
                },
            }
            for row in group.board
        ],
        "joint": len(categories) > 1,
        "verdict": _verdict(group, metric),
        "tests": group.tests,
        "by": _BY[group.tests[0]["by"]] if group.tests else "",
        "effects": [one.words for one in group.effects],
        "compared": _compared(group),
        "importance": (
            search_charts.importance(record["importance"]) if record["importance"] else None
        ),
        "no_importance": record["no_importance"],
        "learning": [
            (name, search_charts.learning(mine, group.configs))
            for name in categories
            if (mine := [t for t in group.trials if t.category == name])
        ],
        "errors": [one for one in group.trials if one.error],
        **charts,
    }


def _compared(group: SearchGroup) -> str:
    """The trials behind the charts and texts of the keys."""
    if group.compared_epochs is None:
        return "Of the trials that came to their end, at one seed each"
    after = f"{group.compared_epochs} epoch" + ("s" if group.compared_epochs > 1 else "")
    return (
        f"Of all {len(group.compared)} trials, as they were measured after {after}: only "
        f"{len(group.configs)} came to their end, and those the scheduler had chosen. A "
        "config that learns fast looks better here than one that learns long"
    )


def _verdict(group: SearchGroup, metric: str) -> str:
    """The result in one sentence, no more than the test shows."""
    if not group.board:
        return "No training came to its end: see the errors below"
    if group.board[0]["is_default"]:
        return "Nothing that was tried is better than the config the search began with: keep it"
    if not group.tests:
        return "The winner was not tested: the summary of the search gives the reason"
    differences = [one["difference"] for one in group.tests]
    if all((one.get("low") or 0) > 0 for one in differences):
        return f"The winner is better than the default on the test, by {metric}"
    worse = [one["category"] for one in group.tests if (one["difference"].get("high") or 0) < 0]
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
