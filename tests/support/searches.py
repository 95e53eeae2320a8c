"""Searches small enough for a test, and a search's folder as `mrkd tune` leaves it."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrkd import storage
from mrkd.config import SearchConfig
from mrkd.training.search import Search, Trial, importances, key_of, objectives, ranked
from tests.support.models import FIT, MODEL
from tests.support.under_fire import UnderFire

SPACE = """
from mrkd.training.search.space import choice, loguniform, uniform

SPACE = {
    "train.mask_rate": uniform(0.0, 0.9),
    "train.learning_rate": loguniform(1e-3, 1e-2),
    "model.simam": choice([True, False]),
}
"""


_LOG_KEYS = ["train.learning_rate"]
NUM_LEARNING = 14
"""Trials of `learning_search`: TPE draws those after its first ten results from what it learned."""


def small_search(folder: Path, root: Path | str, **values: object) -> SearchConfig:
    """A search of trainings of a few steps; `values` by dotted paths."""
    space = folder / "space.py"
    space.write_text(SPACE)
    tables = {"model": MODEL.to_dict(), "train": FIT.to_dict()}
    search = {"space": str(space), "trials": 3, "refit_best": 1, "refit_seeds": 1}
    config = SearchConfig.from_dict(
        {
            "workspace": str(folder / "workspace"),
            "run": "search-1",
            "data": {"root": str(root)},
            "search": search,
            **tables,
        }
    )
    return config.with_values(values)


class InTurn:
    """`Sampler` that draws given mask rates, one after another.

    Args:
        rates: mask rates.

    Attributes:
        told: objectives that it was told, in order.
    """

    learns = True

    def __init__(self, rates: Iterable[float]) -> None:
        self._left = iter(rates)
        self.told: list[float] = []

    def ask(self, trial: str) -> dict[str, Any]:
        """The next rate."""
        return {"train.mask_rate": next(self._left)}

    def tell(self, trial: str, objective: float) -> None:
        """Keeps the objective."""
        self.told.append(objective)


def learning_search(folder: Path, root: Path | str, **values: object) -> SearchConfig:
    """A search of two categories by TPE, whose last trials are drawn from the results of others."""
    own = {
        "search.searcher": "tpe",
        "search.trials": NUM_LEARNING,
        "search.draws_ahead": 2,
        "fleet.cpus_per_worker": 1.0,  # so that torch has as many threads however many are tried
    }
    return small_search(folder, root, **own, **values)


def search_under_fire(config: SearchConfig, folder: Path, kills_after: Sequence[int]) -> None:
    """Runs `mrkd tune` in a process that SIGKILL ends once so many trainings have ended.

    Args:
        config: config of the search.
        folder: folder for the config and the log.
        kills_after: numbers of trainings that have ended before each kill.
    """
    toml = folder / "search.toml"
    toml.write_text(config.to_toml())
    command = [sys.executable, "-m", "jobs.tune", str(toml)]
    fire = UnderFire(command, {}, folder / "log", random.Random(0))
    search = Search(config)
    try:
        for number in kills_after:
            fire.start()
            until = time.monotonic() + 200
            while len(search.trials()) < number:
                assert fire.driver is not None
                assert fire.driver.poll() is None, fire.tail()
                assert time.monotonic() < until, fire.tail()
                time.sleep(0.1)
            fire.driver.send_signal(signal.SIGKILL)
            fire.end()
        fire.start()
        assert fire.driver.wait(300) == 0, fire.tail()
    finally:
        fire.end()


def results_of(config: SearchConfig) -> dict[tuple[str, str, int], tuple[Any, ...]]:
    """Values, state, error and marks of every training of a search, to the bit."""
    return {
        (one.category, one.key, one.seed): (one.values, one.state, one.error, one.marks)
        for one in Search(config).trials()
    }


def winners_of(config: SearchConfig) -> list[str]:
    """The winner of each group of a search."""
    record = storage.read_json(f"{Search(config).uri}/search.json")
    return [group["winner"] for group in record["groups"]]


def write_search(
    folder: Path,
    categories: tuple[str, ...] = ("plate", "ring"),
    *,
    num_trials: int = 16,
    tests: Mapping[str, tuple[float, float, float]] = {"plate": (0.02, 0.01, 0.04)},
) -> str:
    """Writes a search that is done, of made-up trials, and returns its URI.

    Args:
        folder: of the workspace.
        categories: each searched by itself.
        num_trials: of each; two of them are pruned and one fails.
        tests: difference of winner and default with its interval; around 0 where none is given.
    """
    config = small_search(folder, folder / "parts", **{"search.trials": num_trials})
    search = Search(config)
    search.begin()
    default = key_of({})
    groups: list[dict[str, Any]] = []
    for number, category in enumerate(categories):
        rng = np.random.default_rng([5, number])
        for n in range(num_trials):
            search.put(_trial(rng, category, n))
        tried = [one for one in search.trials() if one.category == category]
        best = [key for key, _ in ranked(objectives(tried), [category])[:3]]
        values = {one.key: one.values for one in tried} | {default: {}}
        for key in [*best, default]:
            for seed in (1, 2, 3):
                search.put(_refit(rng, category, values[key], seed, key == default))
        refits = [one for one in search.trials() if one.category == category and one.seed]
        board = ranked(objectives(refits), [category])
        found = {key: of[category] for key, of in objectives(tried).items()}
        tried_values = [values[key] for key in found]
        shares, why_not = importances(tried_values, list(found.values()), _LOG_KEYS)
        groups.append(
            {
                "categories": [category],
                "winner": board[0][0],
                "values": values[board[0][0]],
                "best": [{"config": key, "mean_rank": rank} for key, rank in board],
                "default": default,
                "tests": {category: _test(*tests.get(category, (0.004, -0.02, 0.03)))},
                "importance": shares,
                "no_importance": why_not,
            }
        )
    trials, keys = search.trials(), ["train.mask_rate", "train.learning_rate", "model.simam"]
    search.put_table(trials, keys)
    search.put_best({g["categories"][0]: g["values"] for g in groups}, joint=False)
    space = dict.fromkeys(keys, "as drawn")
    search.store({"state": "done", "space": space, "log_keys": _LOG_KEYS, "groups": groups})
    return storage.join(search.uri)


def _trial(rng: np.random.Generator, category: str, number: int) -> Trial:
    rate, learning_rate = rng.uniform(0, 0.9), 10 ** rng.uniform(-3, -2)
    values = {
        "train.mask_rate": float(rate),
        "train.learning_rate": float(learning_rate),
        "model.simam": bool(rng.random() < 0.5),
    }
    objective = float(0.9 - 0.2 * max(0, rate - 0.5) + rng.normal(0, 0.01))
    epochs = 2 if number < 2 else 5
    rows = [
        {"epoch": n, "step": 10 * n, "loss": 0.5 / (n + 1), "validation_loss": 0.6 / (n + 1)}
        for n in range(epochs)
    ]
    rows[1] |= {"objective": objective - 0.05, "image_auroc": objective - 0.05}
    trial = Trial(category, values, 0, "done", rows, seconds=30.0 + number, model_bytes=10**7)
    if number < 2:
        trial.state = "pruned"
    elif number == 2:
        trial.state, trial.error = "failed", "the training diverged; lower train.learning_rate"
    else:
        trial.marks = {
            "objective": objective,
            "image_auroc": objective,
            "aupro": 0.7,
            "false_call_rate": 0.02,
        }
    return trial


def _refit(
    rng: np.random.Generator, category: str, values: dict, seed: int, is_default: bool
) -> Trial:
    objective = float((0.88 if is_default else 0.9) + rng.normal(0, 0.005))
    marks = {"objective": objective, "image_auroc": objective, "false_call_rate": 0.01}
    return Trial(
        category, values, seed, "done", [], marks, version="0" * 16, model_bytes=10**7, seconds=30.0
    )


def _test(value: float, low: float, high: float) -> dict:
    def side(auroc: float) -> dict:
        interval = {"value": auroc, "low": auroc - 0.05, "high": auroc + 0.05}
        return {"image_auroc": interval, "aupro": 0.7, "false_call_rate": 0.01, "num_seeds": 3}

    return {
        "by": "labels",
        "winner": side(0.87 + value),
        "default": side(0.87),
        "difference": {"value": value, "low": low, "high": high},
        "num_good": 40,
        "num_defective": 60,
        "num_left_out": 0,
    }
