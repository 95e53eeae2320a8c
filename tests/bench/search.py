"""A real search of solar cells and magnetic tiles, and its figures as a table.

    python -m tests.bench.search --out FOLDER --mtd FOLDER [--trials 12]

The quick space, ASHA with two rungs, the preset `masked`. The search's folder stays: the same call
goes on where it was ended, and writes the table in `tests/bench/results/` once it is done.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow.parquet as pq

from mrkd import storage
from mrkd.config import DataConfig, SearchConfig
from mrkd.data import datasets
from mrkd.reports.search.load import SearchData, load_search_data
from mrkd.runs.tune import run as tune
from tests.bench.real_sets import elpv_root
from tests.support.folders import put
from tests.support.rays import RAY

RESULTS = Path(__file__).parent / "results"


def make_data(root: Path, mtd: str) -> None:
    """Two categories in MVTec AD layout with their parts, unless they are there."""
    if root.exists():
        return
    half_done = root.with_name(f"{root.name}.tmp")
    shutil.rmtree(half_done, ignore_errors=True)
    cells = datasets.load(DataConfig(elpv_root(), "elpv", categories=("mono",)))["mono"]
    put(half_done / "mono", [one for one in cells if one.headline])
    shutil.copytree(Path(mtd) / "magnetic_tile", half_done / "magnetic_tile")
    shutil.copy(Path(mtd) / "split.csv", half_done / "magnetic_tile" / "split.csv")
    half_done.rename(root)


def search_config(folder: Path, trials: int) -> SearchConfig:
    """The search: `trials` configs of each category."""
    return SearchConfig.from_dict(
        {
            "workspace": str(folder / "workspace"),
            "run": "search-quick",
            "data": {"root": str(folder / "parts")},
            "model": {"preset": "masked"},
            "search": {
                "space": "quick",
                "trials": trials,
                "scheduler": "asha",
                "grace_epochs": 1,
                "reduction": 2,
            },
        }
    )


def lines(data: SearchData, seconds: Mapping[str, float]) -> Iterator[str]:
    """The table; `seconds`: of the trials and of the refits, each by itself, added up."""
    yield f"# A search on {os.cpu_count()} cores, {data.record['finished_at'][:7]}"
    yield ""
    yield "`python -m tests.bench.search`: quick space, ASHA, preset `masked`, labels, image AUROC."
    took = ", ".join(f"{stage} {added / 60:.0f} min" for stage, added in seconds.items())
    yield f"Added up over trainings, of which two ran at a time: {took}."
    for group in data.groups:
        states = [one.state for one in group.trials]
        yield ""
        yield f"## {group.record['categories'][0]}"
        yield ""
        counted = ", ".join(f"{states.count(s)} {s}" for s in sorted(set(states)))
        yield f"{len(states)} trials: {counted}."
        yield ""
        yield "| place | config | mean of seeds | each seed | s | MB |"
        yield "|---|---|---|---|---|---|"
        for place, one in enumerate(group.board, start=1):
            words = ", ".join(
                f"{key.rpartition('.')[2]} {value:.3g}" if isinstance(value, float) else str(value)
                for key, value in one["values"].items()
            )
            seeds = " ".join(f"{value:.3f}" for value in one["objectives"])
            yield (
                f"| {place} | {words or 'the default'} | {one['mean']:.3f} | {seeds} "
                f"| {one['seconds']:.0f} | {one['model_bytes'] / 1e6:.1f} |"
            )
        yield ""
        for test in group.tests:
            yield (
                f"Test ({test['num_good']} good, {test['num_defective']} defective): winner "
                f"{_interval(test['winner']['image_auroc'])}, default "
                f"{_interval(test['default']['image_auroc'])}, difference "
                f"{_interval(test['difference'], sign='+')}; optimism {test['optimism'] or 0:+.3f}."
            )
        yield ""
        for effect in group.effects:
            yield f"- {effect.words}"
        shares = ", ".join(
            f"{key} {share:.0%}" for key, share in group.record["importance"].items()
        )
        yield f"- importance: {shares or group.record['no_importance']}"


def _interval(one: Mapping[str, float], sign: str = "") -> str:
    return f"{one['value']:{sign}.3f} [{one['low']:{sign}.3f}, {one['high']:{sign}.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mtd", required=True)
    parser.add_argument("--trials", type=int, default=12)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    make_data(options.out / "parts", options.mtd)
    config = search_config(options.out, options.trials)
    summary = tune.run(config, RAY)
    print(json.dumps(dict(summary.counts)))
    uri = storage.join(config.workspace, "searches", config.run)
    seconds = {"search": 0.0, "refit": 0.0}
    for row in pq.read_table(f"{uri}/trials.parquet".removeprefix("file://")).to_pylist():
        seconds[row["stage"]] += row["seconds"] if row["last"] else 0.0
    text = "\n".join(lines(load_search_data(uri), seconds)) + "\n"
    print(text)
    (RESULTS / "search_2-cores_202611.md").write_text(text)


if __name__ == "__main__":
    main()
