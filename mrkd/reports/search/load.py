"""Reader of a search's folder for its page; nothing is trained or scored again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrkd import storage
from mrkd.errors import ArtefactError
from mrkd.reports.kit import read as stored
from mrkd.reports.kit.values import Row
from mrkd.storage.thread_map import in_threads
from mrkd.training.search import SEARCH_VERSION, Trial, comparable, finished
from mrkd.training.search.effects import Effect, effects

RECORD = "search.json"


@dataclass(frozen=True)
class SearchGroup:
    """Categories that were searched together: one, or all of them.

    Args:
        record: its entry of `search.json`: categories, importance of the keys.
        trials: trials of the search itself, of every category.
        configs: objective by config of those that came to their end, a mean over the categories.
        compared: objective by config where all were measured alike, `searches.comparable`.
        compared_epochs: epochs after which they were measured; None: at the end.
        board: refitted configs, the best first: `config`, `values` by dotted key, `is_default`,
            `objectives` by seed and their `mean`, `mean_rank`, and the means `seconds`,
            `model_bytes` and `false_call_rate` (None where unknown).
        tests: winner and default on the images of each `category` that decided nothing, as stored,
            and the `optimism`: the winner's objective less its test, where both are image AUROC.
        effects: effect of each key.
    """

    record: Row
    trials: Sequence[Trial]
    configs: Mapping[str, float]
    compared: Mapping[str, float]
    compared_epochs: int | None
    board: Sequence[Row]
    tests: Sequence[Row]
    effects: Sequence[Effect]


@dataclass(frozen=True)
class SearchData:
    """Everything the page of a search shows.

    Args:
        record: `search.json`.
        workspace: URI of the workspace that holds it.
        groups: groups that were searched by themselves.
        best_toml: config for `mrkd train`; empty where nothing won.
    """

    record: Row
    workspace: str
    groups: Sequence[SearchGroup]
    best_toml: str


def load_search_data(search_uri: str) -> SearchData:
    """Everything that the page of a search shows, once the search is done.

    Args:
        search_uri: `<workspace>/searches/<run>`.

    Raises:
        StorageError: a file of the search cannot be read.
        ArtefactError: the search is of another version of mrkd, or not done.
    """
    search_uri = storage.join(search_uri)
    record = stored.record(
        search_uri, RECORD, version=SEARCH_VERSION, advice="start the search again"
    )
    if record["state"] != "done":
        raise ArtefactError(
            f"{search_uri} is not done: start the search again to go on, its page is written then"
        )
    files = storage.list_files(storage.join(search_uri, "trials"), suffixes=(".json",))
    read = in_threads(storage.read_json, [file.uri for file in files])
    trials = [Trial(**one) for one in read]
    best_uri = storage.join(search_uri, "best.toml")
    return SearchData(
        record,
        workspace=search_uri.rsplit("/", 2)[0],
        groups=[_group(one, trials, record) for one in record["groups"]],
        best_toml=storage.read(best_uri).decode() if storage.stat(best_uri) else "",
    )


def _group(record: Row, trials: Sequence[Trial], whole: Row) -> SearchGroup:
    config = whole["config"]
    categories, seed = record["categories"], config["train"]["seed"]
    mine = [one for one in trials if one.category in categories]
    tried = [one for one in mine if one.seed == seed]
    compared, epochs = comparable(tried, categories)
    values = {one.key: one.values for one in tried}
    refits = [one for one in mine if one.seed != seed and one.state == "done"]
    by_auroc = config["search"]["metric"] == "image_auroc"
    won = [one for one in refits if one.key == record["winner"]] if by_auroc else []
    return SearchGroup(
        record,
        trials=tried,
        configs=finished(tried, categories),
        compared=compared,
        compared_epochs=epochs,
        board=[
            _candidate(one, record["default"], [t for t in refits if t.key == one["config"]])
            for one in record["best"]
        ],
        tests=[
            {
                "category": name,
                "default": {},
                **test,
                "optimism": _optimism(test, [t for t in won if t.category == name]),
            }
            for name, test in record["tests"].items()
        ],
        effects=effects(
            [values[key] for key in compared], list(compared.values()), whole["log_keys"]
        ),
    )


def _candidate(row: Row, default: str, refits: Sequence[Trial]) -> dict[str, Any]:
    seeds = sorted({one.seed for one in refits})
    by_seed = [[one.objective or 0.0 for one in refits if one.seed == seed] for seed in seeds]
    objectives = [float(np.mean(some)) for some in by_seed]
    rates = [one.marks.get("false_call_rate") for one in refits]
    known = [rate for rate in rates if rate is not None]
    return {
        **row,
        "values": refits[0].values,
        "is_default": row["config"] == default,
        "objectives": objectives,
        "mean": sum(objectives) / len(objectives),
        "false_call_rate": float(np.mean(known)) if known else None,
        "seconds": float(np.mean([one.seconds for one in refits])),
        "model_bytes": int(np.mean([one.model_bytes for one in refits])),
    }


def _optimism(test: Row, won: Sequence[Trial]) -> float | None:
    objectives = [one.objective for one in won if one.objective is not None]
    if not objectives:
        return None
    return float(np.mean(objectives)) - float(test["winner"]["image_auroc"]["value"])
