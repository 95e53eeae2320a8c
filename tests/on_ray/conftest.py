"""One local Ray of two CPUs for all tests here; the plant is made in this process."""

import os
from pathlib import Path

import pytest

from mrkd.runs.on_ray import cluster
from tests.support.plants import archive, calm, own_archive, plant

__all__ = ["archive", "calm", "own_archive", "plant"]

POISON = Path(__file__).parents[1] / "support" / "poison"


@pytest.fixture(scope="session", autouse=True)
def local_ray():
    """Its workers die of an image with the marker of `tests/support/poison`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(POISON), prepend=os.pathsep)
        with cluster.connect(num_cpus=2):
            yield
