"""Old nights on S3: their maps go, and one image is found in all of them."""

from datetime import timedelta

import numpy as np
import pytest

from mrkd import storage
from mrkd.nights import prune_maps
from mrkd.nights.image_history import history
from mrkd.nights.manifest import open_night
from mrkd.storage import schema
from tests.support.closed_nights import scored, write_night


@pytest.fixture
def night(bucket):
    """URI of a closed night of two categories with maps."""
    noise = np.random.default_rng(0).random((64, 64), np.float32)
    of_map = schema.encode_map(noise, "float16")
    rows = [
        scored(f"s3://plant/{category}/{n}.png", 0.1, category=category, **of_map)
        for category in ("plate", "ring")
        for n in range(3)
    ]
    return write_night(bucket, "a", rows)


def pruned(bucket):
    (one,) = prune_maps.due(bucket, timedelta(0))
    return prune_maps.prune(bucket, one, by="ada", older_than="0s")


def test_maps_go_and_rows_stay(bucket, night):
    before = open_night(night).to_table(columns=["image_uri", "image_score"])
    done = pruned(bucket)
    after = open_night(night).to_table()
    assert (done.shards, after["anomaly_map"].null_count) == (2, 6)
    assert after.select(["image_uri", "image_score"]).equals(before)
    assert prune_maps.due(bucket, timedelta(0)) == []


def test_one_image_takes_a_listing_and_two_requests_a_night(bucket, night):
    before = storage.requests()
    (found,) = history(bucket, "s3://plant/ring/1.png")
    assert found.category == "ring"
    asked = storage.requests() - before
    assert (asked["GET"], asked["PUT"]) == (2, 0)
    assert asked["LIST"] <= 4
