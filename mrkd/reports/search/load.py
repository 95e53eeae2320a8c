"""What the page of a search shows, read from its folder; nothing is trained or scored again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrkd import storage
from mrkd.errors import ArtefactError
from mrkd.reports.kit import read as stored
from mrkd.reports.kit.values import Measure
from mrkd.reports.search.values import Candidate, SearchData, SearchGroup, Test
from mrkd.storage.thread_map import in_threads
from mrkd.training.search import SEARCH_VERSION, Trial, comparable, finished
from mrkd.training.search.effects import effects

RECORD = "search.json"


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
        storage.join(search_uri, RECORD), version=SEARCH_VERSION, advice="start the search again"
    )
    if record["state"] != "done":
        raise ArtefactError(
            f"{search_uri} is not done: start the search again to go on, its page is written then"
        )
    files = storage.list_files(storage.join(search_uri, "trials"), suffixes=(".json",))
    read = in_threads(storage.read_json, [file.uri for file in files])
    trials = [Trial.from_dict(one) for one in read]
    config = record["config"]
    best_uri = storage.join(search_uri, "best.toml")
    has_best = storage.stat(best_uri) is not None
    return SearchData(
        run=record["run"],
        workspace=search_uri.rsplit("/", 2)[0],
        root=record["root"],
        started_at=record["started_at"],
        finished_at=record["finished_at"],
        metric=config["search"]["metric"],
        space=record["space"],
        groups=tuple(_group(one, trials, record) for one in record["groups"]),
        best_toml=storage.read(best_uri).decode() if has_best else "",
        config=config,
    )


def _group(
    record: Mapping[str, Any], trials: Sequence[Trial], whole: Mapping[str, Any]
) -> SearchGroup:
    config = whole["config"]
    categories, seed = record["categories"], config["train"]["seed"]
    mine = [one for one in trials if one.category in categories]
    tried = [one for one in mine if one.seed == seed]
    compared, epochs = comparable(tried, categories)
    values = {one.key: one.values for one in tried}
    refits = [one for one in mine if one.seed != seed and one.state == "done"]
    board = tuple(
        _candidate(one, record["default"], [t for t in refits if t.key == one["config"]])
        for one in record["best"]
    )
    won = {
        name: [t.objective for t in refits if t.category == name and t.key == record["winner"]]
        for name in categories
    }
    return SearchGroup(
        categories=tuple(categories),
        trials=tuple(tried),
        configs=finished(tried, categories),
        compared=compared,
        compared_epochs=epochs,
        board=board,
        tests=tuple(
            _test(name, test, won[name], config["search"]["metric"])
            for name, test in record["tests"].items()
        ),
        importance=record["importance"],
        no_importance=record["no_importance"],
        effects=tuple(
            effects([values[key] for key in compared], list(compared.values()), whole["log_keys"])
        ),
    )


def _candidate(row: Mapping[str, Any], default: str, refits: Sequence[Trial]) -> Candidate:
    seeds = sorted({one.seed for one in refits})
    by_seed = [[one.objective or 0.0 for one in refits if one.seed == seed] for seed in seeds]
    rates = [one.marks.get("false_call_rate") for one in refits]
    known = [rate for rate in rates if rate is not None]
    return Candidate(
        config=row["config"],
        values=refits[0].values,
        is_default=row["config"] == default,
        objectives=tuple(float(np.mean(some)) for some in by_seed),
        mean_rank=row["mean_rank"],
        false_call_rate=float(np.mean(known)) if known else None,
        seconds=float(np.mean([one.seconds for one in refits])),
        model_bytes=int(np.mean([one.model_bytes for one in refits])),
    )


def _test(
    category: str, record: Mapping[str, Any], won: Sequence[float | None], metric: str
) -> Test:
    winner, default = record["winner"], record.get("default", {})
    tested = winner["image_auroc"]["value"]
    objective = [one for one in won if one is not None]
    optimism = None
    if objective and metric == "image_auroc":
        optimism = float(np.mean(objective)) - tested
    return Test(
        category=category,
        by=record["by"],
        winner=Measure(**winner["image_auroc"]),
        default=Measure(**default.get("image_auroc", {})),
        difference=Measure(**record["difference"]),
        aupro=(winner["aupro"], default.get("aupro")),
        false_call_rate=(winner["false_call_rate"], default.get("false_call_rate")),
        num_good=record["num_good"],
        num_defective=record["num_defective"],
        optimism=optimism,
    )
