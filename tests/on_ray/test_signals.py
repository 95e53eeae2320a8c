"""Signals to runs on Ray: a night that is told to end, and tasks under way as the signal comes."""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from mrkd.errors import StoppedError
from mrkd.nights.manifest import open_night
from mrkd.runs import score
from mrkd.runs.recorded_run import recorded_run
from mrkd.runs.resources import Resources
from tests.support.night_runs import command, environment
from tests.support.rays import RAY
from tests.support.under_fire import TOP

NUM_IMAGES = 24


def rows(plant, run):
    return open_night(str(plant.night(run))).to_table().sort_by("image_uri").to_pylist()


def shards(plant, run):
    return {p: p.stat().st_mtime_ns for p in plant.night(run).glob("scores/*/*.parquet")}


def test_a_night_that_is_told_to_end_leaves_a_verdict_and_goes_on(plant, archive, tmp_path, calm):
    values = {"rows.shard_rows": 1, "pool.scorers": 1, "executor": "ray"}
    config = plant.score_config(archive, "stopped-on-ray", **values)
    driver = subprocess.Popen(
        command(config, tmp_path), cwd=TOP, env=environment(), stdout=subprocess.PIPE
    )
    until = time.monotonic() + 120
    while not shards(plant, config.run) and time.monotonic() < until:
        time.sleep(0.02)
    driver.send_signal(signal.SIGTERM)
    out, _ = driver.communicate(timeout=120)
    verdict = json.loads(out.splitlines()[-1])
    assert (driver.returncode, verdict["exit_code"], verdict["state"]) == (1, 1, "failed")
    assert "was stopped: start it again" in verdict["reasons"][0]
    folder = plant.night(config.run)
    stored = json.loads((folder / "summary.json").read_text())
    assert stored["reasons"] == verdict["reasons"]
    assert json.loads((folder / "lease.json").read_text())["state"] == "released"
    committed = shards(plant, config.run)
    assert 0 < len(committed) < NUM_IMAGES
    assert score.run(config, RAY).counts == calm.counts
    assert committed.items() <= shards(plant, config.run).items()
    assert rows(plant, config.run) == rows(plant, "calm")


def stay(file):
    """Leaves its process's number, and never ends."""
    Path(file).write_text(str(os.getpid()))
    while True:
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_tasks_under_way_and_leaves_a_summary(tmp_path, number):
    """Since SIGKILL follows, the summary is stored while Ray's workers are still waited for."""
    mark, folder = tmp_path / "mark", tmp_path / "run"
    pids = []

    def send():
        until = time.monotonic() + 60
        while time.monotonic() < until and not (mark.exists() and mark.read_text()):
            time.sleep(0.05)
        pids.append(int(mark.read_text()))
        os.kill(os.getpid(), number)

    def run():
        with recorded_run("train", "run", str(folder)), RAY.connected():
            thread = threading.Thread(target=send)
            thread.start()
            list(RAY.run_each(stay, {"a": (str(mark),)}, Resources(1.0), max_failures=0))

    with pytest.raises(StoppedError, match="the fleet was stopped: start it again to go on"):
        run()
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["exit_code"], summary["state"]) == (1, "failed")
    assert summary["reasons"] == ["the fleet was stopped: start it again to go on"]
    until = time.monotonic() + 30
    while Path(f"/proc/{pids[0]}").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
