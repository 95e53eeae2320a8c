"""What is wrong with a cluster's address or a folder is told before Ray is started."""

import os
import subprocess
import sys
import time

import pytest

SCRIPT = """
from mrkd.errors import ConfigError
from mrkd.runs.on_ray import cluster
try:
    with cluster.connect():
        print("connected")
except ConfigError as error:
    print(f"refused: {error}")
"""


def connect(**environment):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_where_nobody_answers_is_told_within_half_a_minute(address):
    began = time.monotonic()
    told = connect(RAY_ADDRESS=address)
    assert told.startswith(f"refused: RAY_ADDRESS is '{address}', where no cluster answers")
    assert time.monotonic() - began < 45  # Python's own start and the import of Ray among them


@pytest.mark.parametrize("address", ["somewhere", "http://127.0.0.1:8265", "127.0.0.1:x"])
def test_what_is_not_an_address_of_ray_is_refused_with_the_forms_of_one(address):
    assert "which is not an address of a cluster: write host:port" in connect(RAY_ADDRESS=address)


def test_a_folder_whose_path_is_too_long_for_rays_sockets_is_refused(tmp_path):
    folder = tmp_path / ("x" * 120)
    told = connect(RAY_TMPDIR=str(folder))
    assert told.startswith("refused: RAY_TMPDIR is")
    assert "too long a path for Ray's sockets" in told
    assert not folder.exists()


def test_a_long_folder_of_the_machine_makes_ray_use_a_short_one(tmp_path):
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    assert connect(TMPDIR=str(folder)) == "connected"
