"""The bars of issue 3 on real parts, test halves, three seeds: about 40 minutes on two cores.

`make -C tests real_data MTD=<folder>` prints the table, too. Finished runs are kept under
MRKD_CACHE, by default a folder beside the system's temporary files, and are not run again.
"""

import os
import sys
import tempfile
from pathlib import Path

import pytest

from tests.bench.real_data import DEFAULT, NEAREST, RD, measure_all, table

pytestmark = [pytest.mark.real_data, pytest.mark.timeout(3 * 3600)]
MTD = os.environ.get("MRKD_MTD", "")


@pytest.fixture(scope="module")
def results():
    if not Path(MTD, "split.csv").exists():
        pytest.skip(f"no split.csv in {MTD or 'MRKD_MTD'!r}: give MTD=<the data set's folder>")
    folder = Path(os.environ.get("MRKD_CACHE", Path(tempfile.gettempdir()) / "mrkd-real-data"))
    found = measure_all(MTD, folder)
    sys.stdout.write(table(found, "test"))
    return found


def test_mtd_image_auroc_and_its_lead_over_the_nearest_neighbour(results):
    mtd = results["magnetic_tile"]
    assert mtd.image(DEFAULT).value >= 0.82
    assert mtd.image(DEFAULT, NEAREST).value >= 0.02


def test_mtd_pixel_figures(results):
    mtd = results["magnetic_tile"]
    assert mtd.pixel("pixel_auroc", DEFAULT, None).value >= 0.91
    assert mtd.pixel("aupro", DEFAULT, None, NEAREST).value >= 0


def test_elpv_mono_image_auroc_and_its_distance_to_the_nearest_neighbour(results):
    mono = results["mono"]
    assert mono.image(DEFAULT).value >= 0.93
    assert mono.image(DEFAULT, NEAREST).value >= -0.015


@pytest.mark.parametrize("name", ["magnetic_tile", "mono"])
def test_default_is_not_below_plain_reverse_distillation(results, name):
    assert results[name].image(DEFAULT, RD).value >= 0


def test_training_takes_at_most_five_minutes(results):
    assert all(found.mean(DEFAULT, "fit_s") <= 300 for found in results.values())
