"""Kill a scorer, a reader, the raylet or the driver: the night goes on, to equal bits."""

import os
import random

import pytest

from tests.support import night_proofs as proofs
from tests.support.night_chaos import KINDS


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with proofs.place(tmp_path_factory.mktemp("chaos"), 10_000) as found:
        found.models(num_good=40, max_steps=8)
        yield found


def test_a_night_whose_processes_are_killed_has_the_same_rows(place):
    found = proofs.chaos(place, kills=6, size=600, shard_rows=16, seed=7)
    assert sum(found["kills"].values()) >= 6
    assert found["kills"].keys() == set(KINDS)


def test_a_night_whose_requests_fail_has_the_same_rows(place):
    found = proofs.faults(place, size=600, shard_rows=16, seed=5)
    assert sum(found["spoilt"].values()) >= 6


@pytest.mark.chaos
@pytest.mark.timeout(5400)
def test_fifty_kills_at_random_moments_change_no_row(place):
    seed = int(os.environ.get("MRKD_SEED") or random.SystemRandom().randrange(2**32))
    found = proofs.chaos(place, kills=50, size=10_000, seed=seed)
    assert sum(found["kills"].values()) >= 50
