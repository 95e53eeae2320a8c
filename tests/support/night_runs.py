"""Nights over a large archive: their models, their config, and a start of `jobs.score` as a row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mrkd import storage
from mrkd.config import DataConfig, ScoreConfig, TrainConfig
from mrkd.data import datasets
from mrkd.model.registry import promotions
from mrkd.nights import model_versions
from mrkd.nights.manifest import open_night, read_manifests
from mrkd.nights.night import Night
from mrkd.training.category import train_category
from tests.support.archive_faults import MAX_BYTES
from tests.support.archive_pictures import FULL, Pictures, encode
from tests.support.archives import TEMPLATE, Archive
from tests.support.processes import Watch
from tests.support.under_fire import TOP

POISON = Path(__file__).parent / "poison"
DAMAGED = ("truncated", "decode")
"""What the row of a damaged tar itself may say."""


def make_models(
    pictures: Pictures,
    workspace: str,
    folder: Path,
    *,
    num_good: int = 120,
    max_steps: int = 40,
    full: int = FULL,
) -> None:
    """A champion of each category, of 64 px, or `full` for whole parts, unless it has one."""
    for category in pictures.shares:
        if promotions.champion(workspace, category) is not None:
            continue
        good = folder / category / "train" / "good"
        good.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures.good(category, num_good)):
            (good / f"{number:04}.png").write_bytes(encode(picture))
        values = {
            "model.image_size": full if category.endswith("-full") else 64,
            "train.max_steps": max_steps if not category.endswith("-full") else max_steps // 2,
            "train.warmup_steps": max_steps // 4,
            "train.validation_share": 0.2,
            "train.calibration_share": 0.25,
            "train.precision": "float32",
            "fleet.gate_images": 8,
        }
        tables: dict[str, Any] = {"data": {"root": str(folder), "categories": [category]}}
        config = TrainConfig.from_dict({"workspace": workspace, "run": "fleet-1", **tables})
        config = config.with_values(values)
        samples = datasets.load(DataConfig(str(folder), categories=(category,)))[category]
        train_category(config, category, samples)


def night_config(archive: Archive, workspace: str, run: str, **values: object) -> ScoreConfig:
    """Of a night over a built archive; what cannot be reached is tried twice."""
    tables = {
        "archive": {"uri": archive.uri, "template": TEMPLATE, "max_bytes": MAX_BYTES},
        "pool": {"max_shard_attempts": 2},
        "max_error_share": 0.05,
    }
    raw = {"workspace": workspace, "run": run, **tables}
    # Its images come from anywhere: whether they look like the good ones is not asked here.
    return ScoreConfig.from_dict(raw).with_values({"rows.unlike": "accept", **values})


def plan_night(config: ScoreConfig) -> int:
    """Stores the night's plan and scores nothing, as a start that dies right then; its number."""
    night = Night(config.workspace, config.run)
    with night.lease():
        return next(night.revisions(config, partial(model_versions.pin, config.workspace)))


def environment(config: ScoreConfig | None = None, endpoint: str = "") -> dict[str, str]:
    """Of a start: this process's, its workers able to find this tree and the poison.

    Args:
        config: of the night, whose poison raises an exception if it is in process; else it kills.
        endpoint: of a proxy before the server; empty: the server's own.
    """
    changed = {"PYTHONPATH": os.pathsep.join([str(POISON), str(TOP)])}
    if config is not None and config.executor == "in_process":
        changed["MRKD_POISON"] = "raise"
    return {**os.environ, **changed, **({"AWS_ENDPOINT_URL": endpoint} if endpoint else {})}


def command(config: ScoreConfig, folder: Path) -> list[str]:
    """The words of a start; its config goes into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    toml = folder / f"{config.run}.toml"
    toml.write_text(config.to_toml())
    return [sys.executable, "-m", "jobs.score", str(toml)]


@dataclass(frozen=True)
class Start:
    """What one start of a night did."""

    code: int
    summary: Mapping[str, Any]
    seconds: float
    log: str
    watch: Watch


def start(config: ScoreConfig, folder: Path, *, every_s: float = 0.5, endpoint: str = "") -> Start:
    """Runs a start to its end, watched.

    Args:
        config: of the night.
        folder: for its TOML and its log.
        every_s: between two looks at it.
        endpoint: of a proxy before the server; empty: the server's own.
    """
    words, log_path = command(config, folder), folder / f"{config.run}.log"
    began, before = time.monotonic(), log_path.stat().st_size if log_path.exists() else 0
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            words,
            cwd=TOP,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment(config, endpoint),
            start_new_session=True,
        )
    with Watch(process.pid, CommittedRows(config), every_s) as watch:
        out, _ = process.communicate()
    seconds = time.monotonic() - began
    said = log_path.read_text(errors="replace")[before:]
    assert out, said[-3000:]
    summary = json.loads(out.decode().splitlines()[-1])
    return Start(process.returncode, summary, seconds, said, watch)


class CommittedRows:
    """Counts a night's committed rows by a listing, from the plans' shards."""

    def __init__(self, config: ScoreConfig) -> None:
        self._night = Night(config.workspace, config.run)
        self._sizes: dict[str, int] = {}

    def __call__(self) -> int:
        files = self.files()
        if not files <= self._sizes.keys():
            for plan in storage.list_files(storage.join(self._night.uri, "plans")):
                table = pq.read_table(pa.BufferReader(storage.read(plan.uri)), columns=["shard"])
                for pair in pc.value_counts(table["shard"]).to_pylist():
                    self._sizes[pair["values"]] = pair["counts"]
        return sum(self._sizes.get(name, 0) for name in files)

    def files(self) -> set[str]:
        """Ids of the shards that are committed."""
        folder = storage.join(self._night.uri, "scores")
        names = (file.uri.rpartition("/shard-")[2] for file in storage.list_files(folder))
        return {name.removesuffix(".parquet") for name in names}


def rows_of(workspace: str, run: str) -> pa.Table:
    """The rows of a night that count, in one order, whatever their files are."""
    table = open_night(storage.join(workspace, "nights", run)).to_table()
    return table.sort_by([("category", "ascending"), ("image_uri", "ascending")]).combine_chunks()


def check_equal(found: pa.Table, expected: pa.Table) -> None:
    """Does nothing if two nights' rows are the same, to the bit.

    Raises:
        AssertionError: they are not; it names the columns and the first row that differ.
    """
    assert found.num_rows == expected.num_rows, (found.num_rows, expected.num_rows)
    for name in ("image_uri", *expected.column_names):
        ours, theirs = found[name].to_pylist(), expected[name].to_pylist()
        differ = [n for n, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
        assert not differ, (
            f"{len(differ)} rows differ in {name}, the first {found['image_uri'][differ[0]]}: "
            f"{ours[differ[0]]!r:.200} is not {theirs[differ[0]]!r:.200}"
        )


def check_outcomes(archive: Archive, workspace: str, run: str, *, disturbed: bool = True) -> None:
    """Does nothing if the night has exactly the rows that the archive asks for.

    Args:
        archive: over which it was.
        workspace: of the night.
        run: its name.
        disturbed: whether `Archive.disturb` was called after the plan. What had changed then has an
            error in the first revision, and a second one with its scores.

    Raises:
        AssertionError: a row is missing, stands twice or says something else.
    """
    uri = storage.join(workspace, "nights", run)
    files = [stored.file for stored in read_manifests(uri)[0].shards]
    filesystem, folder = storage.open_uri(storage.join(uri, "scores"))
    columns = ["image_uri", "error_kind", "image_height", "image_width", "is_anomalous"]
    first = pa.concat_tables(
        pq.read_table(f"{folder}/{name}", columns=columns, filesystem=filesystem, partitioning=None)
        for name in files
    )
    _check_rows(archive, first, late=not disturbed)
    _check_rows(archive, open_night(uri).to_table(columns=columns), late=True)


def _check_rows(archive: Archive, found: pa.Table, *, late: bool) -> None:
    expected = {row["image_uri"]: row for row in archive.expected.to_pylist()}
    rows = {row["image_uri"]: row for row in found.to_pylist()}
    assert len(rows) == found.num_rows, f"{found.num_rows - len(rows)} URIs stand twice"
    missing, extra = expected.keys() - rows.keys(), rows.keys() - expected.keys()
    assert not missing | extra, (len(missing), sorted(missing)[:5], len(extra), sorted(extra)[:5])
    wrong = []
    for uri, row in rows.items():
        planned = expected[uri]
        outcome = "scored" if late and planned["outcome"] == "changed" else planned["outcome"]
        allowed = DAMAGED if outcome == "damaged" else (outcome,)
        size = (row["image_height"], row["image_width"])
        asked = (planned["image_height"], planned["image_width"])
        if (row["error_kind"] or "scored") not in allowed or asked not in ((None, None), size):
            wrong.append((uri, row["error_kind"], outcome, size, asked))
        assert (row["is_anomalous"] is None) == (row["error_kind"] is not None), uri
    assert not wrong, (len(wrong), wrong[:10])


def events(reasons: Sequence[str]) -> list[str]:
    """The reasons of a verdict without those that say what each category's model promises."""
    doubts = (" good images vouch for ", "the teacher's weights are random")
    return [reason for reason in reasons if not any(doubt in reason for doubt in doubts)]
