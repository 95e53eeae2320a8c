"""What the default must do on real sets; their tables are printed, too. An hour on two cores.

`make -C tests real_data DATA=<folder>`; finished runs are kept under MRKD_CACHE, by default a
folder beside the system's temporary files, and are not run again.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from mrkd.evaluation import MEAN
from mrkd.studies.arms import CELLS, NEAREST, RD
from tests.bench.real_sets import BEFORE, DEFAULT, places, run, table

pytestmark = [pytest.mark.real_data, pytest.mark.timeout(3 * 3600)]
ARMS = (DEFAULT, CELLS, BEFORE, RD, NEAREST)


@pytest.fixture(scope="module")
def runs():
    folder = Path(os.environ.get("MRKD_DATA") or "missing")
    if not (folder / "mtd").exists():
        pytest.skip(f"no mtd in {str(folder)!r}: give DATA=<the folder of the sets>")
    default = Path(tempfile.gettempdir()) / "mrkd-real-data"
    cache = Path(os.environ.get("MRKD_CACHE", default))
    found = {
        (place.category, arm): [run(place, arm, 0, "test", cache)]
        for place in places(folder)
        for arm in ARMS
    }
    sys.stdout.write(table(found, ARMS, "test"))
    return found


def figures(runs, arm, metric, defect=None):
    found = {
        category: one.figure(metric, defect)
        for (category, own), (one,) in runs.items()
        if own == arm
    }
    return {category: figure.value for category, figure in found.items() if figure}


def calls(runs, arm):
    return {category: one.calls() for (category, own), (one,) in runs.items() if own == arm}


def test_good_parts_are_hardly_called_defective(runs):
    called = {category: found[0] for category, found in calls(runs, DEFAULT).items()}
    assert np.mean(list(called.values())) <= 0.05
    assert {category for category, share in called.items() if share > 0.12} <= {"cube"}


def test_defective_parts_are_found_nearly_as_the_best_threshold_would(runs):
    found = np.array(list(calls(runs, DEFAULT).values()))
    assert found[:, 1].mean() >= found[:, 2].mean() - 0.10


def test_image_auroc_is_nowhere_lost_and_gained_where_it_was_low(runs):
    ours, before = (figures(runs, arm, "image_auroc") for arm in (DEFAULT, BEFORE))
    gained = {category: ours[category] - before[category] for category in ours}
    assert min(gained.values()) >= -0.005
    assert min(gained[category] for category in ("ball_screw", "poly")) >= 0.025


def test_defects_are_outlined_better_than_before(runs):
    ours, before = (figures(runs, arm, "aupro", MEAN) for arm in (DEFAULT, BEFORE))
    assert np.mean(list(ours.values())) >= np.mean(list(before.values())) + 0.01


def test_a_model_takes_little_room_and_little_time(runs):
    told = [one.told for (_, arm), (one,) in runs.items() if arm == DEFAULT]
    assert max(one["model_bytes"] for one in told) <= 30e6
    assert max(one["train_s"] for one in told) <= 300
