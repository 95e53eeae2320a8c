"""Nights over 1,000 real images on a real S3 server; `python -m tests.bench.archive` has 100,000.

All images are solar cells of the installed package elpv-dataset, 64 and 256 px.
"""

import os
import random

import duckdb
import pandas as pd
import pyarrow.dataset as ds
import pytest

from mrkd import storage
from tests.support import night_proofs as proofs
from tests.support.archives import bad_counts
from tests.support.night_chaos import KINDS

SIZE = 1000


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    with proofs.place(folder, SIZE, executor="in_process") as found:
        found.models(num_good=40, max_steps=8, full=128)
        yield found


@pytest.fixture(scope="module")
def night(place):
    return proofs.night(place)


def test_every_planned_image_has_its_one_row_of_the_right_kind(night):
    assert night["rows"] == SIZE
    assert night["counts"].keys() - {"ok", "nok"} == bad_counts(SIZE).keys()


def test_nothing_new_ends_at_once_and_adds_nothing(place, night):
    proofs.nothing_new(place)


def test_new_images_become_a_revision_of_their_own(place, night):
    proofs.late(place, 20)


def test_of_two_starts_one_works_and_a_stale_lease_is_taken_over(place):
    proofs.two_starts(place, 200)


def test_any_reader_of_parquet_sees_one_table_by_category(place, night, tmp_path):
    scores = storage.join(place.workspace, "nights", proofs.NIGHT, "scores")
    for file in storage.list_files(scores):
        target = tmp_path / file.uri.removeprefix(f"{scores}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(storage.read(file.uri))
    read = f"read_parquet('{tmp_path}/*/*.parquet', hive_partitioning = true)"
    query = f"SELECT category, count(*), count(error_kind) FROM {read} GROUP BY 1"
    by_duckdb = {row[0]: row[1:] for row in duckdb.sql(query).fetchall()}
    table = ds.dataset(tmp_path, partitioning="hive").to_table(columns=["category", "error_kind"])
    columns = ["category", "error_kind", "image_score"]
    frame = pd.read_parquet(tmp_path, columns=columns)
    assert frame["error_kind"].isna().equals(frame["image_score"].notna())
    groups = frame.groupby("category", observed=True)["error_kind"]
    by_pandas = {name: (len(kinds), int(kinds.notna().sum())) for name, kinds in groups}
    assert by_duckdb == by_pandas
    assert table.num_rows == len(frame) == sum(count for count, _ in by_duckdb.values())
    assert by_duckdb["no-such-model"] == (1, 1)


def test_a_night_whose_processes_are_killed_has_the_same_rows(place):
    found = proofs.chaos(place, kills=len(KINDS), size=400, shard_rows=8, seed=7)
    assert found["kills"].keys() == set(KINDS)


@pytest.mark.chaos
def test_a_night_whose_requests_fail_has_the_same_rows(place):
    found = proofs.faults(place, size=600, shard_rows=16, seed=5)
    assert sum(found["spoilt"].values()) >= 6


@pytest.mark.chaos
@pytest.mark.timeout(5400)
def test_fifty_kills_at_random_moments_change_no_row(place):
    seed = int(os.environ.get("MRKD_SEED") or random.SystemRandom().randrange(2**32))
    found = proofs.chaos(place, kills=50, size=10_000, seed=seed)
    assert sum(found["kills"].values()) >= 50
