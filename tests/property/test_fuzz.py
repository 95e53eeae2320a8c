"""A short fuzz of each reader, in a process of its own, so that a crash of that is told too."""

import os

import pytest

from tests.bench import fuzz
from tests.support import forked

SECONDS = os.environ.get("MRKD_FUZZ_S", "3")
SEED = os.environ.get("MRKD_SEED", "0")


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_mutated_files_are_read_or_refused_by_our_own_errors(target, tmp_path):
    output = tmp_path / "output"
    options = ["--keep", str(tmp_path), "--seconds", SECONDS, "--seed", SEED]
    process = forked.start(fuzz.main, [target, *options], output=output)
    process.join(float(SECONDS) + 120)
    still_running = process.is_alive()
    process.kill()
    process.join()
    told = output.read_text(errors="replace")
    assert not still_running, f"{told[-3000:]}\n{tmp_path}/{target}"
    assert process.exitcode == 0, f"{told[-3000:]}\n{tmp_path}/{target}"
    assert "refused by mrkd's errors, no other" in told
