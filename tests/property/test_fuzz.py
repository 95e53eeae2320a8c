"""A short fuzz of each reader, in a process of its own, so that a crash of that is told too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
TARGETS = ("decode", "config", "manifest", "template", "artefact", "tar", "labels")
SECONDS = os.environ.get("MRKD_FUZZ_S", "5")
SEED = os.environ.get("MRKD_SEED", "0")


@pytest.mark.parametrize("target", TARGETS)
def test_mutated_files_are_read_or_refused_by_our_own_errors(target, tmp_path):
    command = [sys.executable, "-m", "tests.bench.fuzz", target, "--keep", str(tmp_path)]
    done = subprocess.run(
        [*command, "--seconds", SECONDS, "--seed", SEED],
        cwd=TOP,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=float(SECONDS) + 120,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-500:]}\n{done.stderr[-3000:]}\n{tmp_path}/{target}"
    assert "refused by mrkd's errors, no other" in done.stdout
