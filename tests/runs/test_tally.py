"""What steps took, added up."""

import time
from concurrent.futures import ThreadPoolExecutor

from mrkd.runs.shards.timings import Meter, Timings


def test_both_together_add_seconds_and_requests_and_keep_the_highest_peak():
    one = Timings({"read": 1.5, "score": 1.0}, {"GET": 3}, 10)
    other = Timings({"read": 0.5}, {"GET": 1, "PUT": 2}, 9)
    both = one + other
    assert both.seconds == {"read": 2.0, "score": 1.0}
    assert both.requests == {"GET": 4, "PUT": 2}
    assert both.peak_rss_bytes == 10
    assert one + Timings() == one


def test_stages_in_threads_share_the_seconds_of_their_block():
    meter = Meter()

    def work(inner):
        with inner.time("read"):
            time.sleep(0.15)
        with inner.time("decode"):
            time.sleep(0.05)

    began = time.perf_counter()
    with meter.time_threads() as inner, ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(work, inner)
    elapsed = time.perf_counter() - began
    seconds = meter.took().seconds
    assert 0.2 <= sum(seconds.values()) <= elapsed
    assert seconds["read"] > 1.5 * seconds["decode"]


def test_a_process_has_a_peak_of_its_memory():
    assert 2**20 < Meter().took().peak_rss_bytes < 2**40
