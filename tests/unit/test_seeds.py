"""Streams hang on their names alone."""

import subprocess
import sys

import numpy as np

from mrkd import seeds


def test_a_stream_repeats_and_differs_by_name_and_seed():
    first = seeds.stream(0, "feature_mask", 1, 2, "a").random(4)
    np.testing.assert_array_equal(first, seeds.stream(0, "feature_mask", 1, 2, "a").random(4))
    for other in ((1, "feature_mask", 1, 2, "a"), (0, "feature_mask", 2, 1, "a"), (0, "order", 1)):
        assert not np.array_equal(first, seeds.stream(*other).random(4))


def test_names_do_not_run_into_each_other():
    assert seeds.torch_seed(0, "a", "b") != seeds.torch_seed(0, "ab")
    assert seeds.torch_seed(0, "a, b") != seeds.torch_seed(0, "a", "b")


def test_a_stream_is_the_same_in_another_process():
    code = "from mrkd import seeds; print(seeds.torch_seed(7, 'init'))"
    for hash_seed in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        )
        assert int(out.stdout) == seeds.torch_seed(7, "init")
