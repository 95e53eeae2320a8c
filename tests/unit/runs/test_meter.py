"""Meters that overlap in one process."""

from mrkd.runs.shards.timings import Meter
from mrkd.storage import request_counts


def test_requests_are_counted_by_the_meter_of_the_run_and_not_again_by_those_within_it():
    run, shards = Meter(), [Meter(with_requests=False) for _ in range(2)]
    request_counts.count("GET")
    request_counts.count("GET", "retried")
    total = run.took()
    for shard in shards:
        total += shard.took()
    assert dict(total.requests) == {"GET": 2, "retried": 1}
