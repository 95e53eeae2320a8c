"""A night and a fleet on a cluster whose nodes are asleep at first, and some of which are lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray

from mrkd.nights.manifest import open_night
from mrkd.runs.on_ray import cluster
from mrkd.runs.on_ray.score.passes import wake_readers
from mrkd.runs.resources import Node
from tests.support.clusters import Head, sleeping
from tests.support.models import small_config
from tests.support.processes import descendants

KINDS = {
    "gpu": {"resources": {"CPU": 1, "GPU": 1}, "max_workers": 2},
    "decode": {"resources": {"CPU": 1}, "labels": {"role": "decode"}, "max_workers": 3},
}
COPIES = 12
# So that nodes are asked for within seconds, as the night is short.
FAST = {
    "RAY_DATA_CLUSTER_UTIL_AVG_WINDOW_S": "2",
    "RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS": "2",
}
SEED = int(os.environ.get("MRKD_SEED", "0"))


def configs(plant, archive, folder, run) -> list[str]:
    """A night of copies of an archive, and a fleet, on GPUs that are only Ray's word."""
    large = folder / "archive"
    for copy in range(COPIES):
        shutil.copytree(archive, large / str(copy))
    night = {"pool.device": "cpu", "pool.gpus_per_scorer": 1.0, "rows.shard_rows": 3}
    night |= {"pool.reader_labels": ["role=decode"], "archive.template": "{copy}/{category}/{name}"}
    fleet = {"fleet.gpus_per_worker": 1.0, "data.categories": ["plate", "ring"]}
    fleet |= {"fleet.max_failures": 0, "fleet.backoff_s": 0.1}
    return [
        plant.score_config(large, run, **night).to_toml(),
        small_config(str(plant.root), str(folder / "workspace"), **fleet).to_toml(),
    ]


def run(head: Head, tomls: list[str]) -> dict[str, Any]:
    """What `tests.support.asleep` saw on a cluster."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.asleep", *tomls],
        env={**head.environment, **FAST},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def scores(plant, run_name, folder) -> list[tuple[str, float]]:
    """Name and score of every image of a night, sorted."""
    columns = ["category", "image_uri", "image_score"]
    rows = open_night(str(plant.night(run_name))).to_table(columns=columns).to_pylist()
    return sorted(
        ("/".join((row["category"], row["image_uri"].rpartition("/")[2])), row["image_score"])
        for row in rows
    )


@pytest.fixture(scope="module")
def asleep(plant, archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("asleep")
    with sleeping(folder, KINDS) as head:
        return run(head, configs(plant, archive, folder, "asleep"))


def test_every_node_takes_part_in_a_night_whose_rows_are_those_of_any_other(plant, asleep, calm):
    # The head has one CPU, too; it may commit, and only nodes with the label read.
    assert asleep["score_nodes"]["1 CPU 1 GPU"] == [2, 2]
    seen, worked = asleep["score_nodes"]["1 CPU 0 GPU"]
    assert seen == 4
    assert worked >= 3
    assert asleep["score"]["exit_code"] == 0
    expected = scores(plant, "calm", None)
    assert scores(plant, "asleep", None) == sorted(expected * COPIES)


def test_a_fleet_trains_on_every_gpu_node(asleep):
    assert asleep["train"]["counts"]["trained"] == 2
    assert asleep["train_nodes"]["1 CPU 1 GPU"][1] == 2


def test_all_nodes_leave_when_nothing_is_left_to_do(asleep):
    assert asleep["left"] == 0


@pytest.mark.parametrize(("shards", "expected"), [(1, 1), (4, 1), (5, 2), (1000, 3)])
def test_no_more_nodes_are_woken_than_have_shards_to_read(monkeypatch, shards, expected):
    asleep = [Node(8, 1), Node(2), Node(2), Node(2), Node(0)]
    monkeypatch.setattr(cluster, "sleeping_nodes", lambda: asleep)
    asked = wake_readers(shards, ())
    assert len(asked) == expected
    ray.get(asked, timeout=60)  # this Ray's node has as many CPUs


class Killer(threading.Thread):
    """Kills a node that was added, one after another, at random moments."""

    def __init__(self, head: Head, kills: int) -> None:
        super().__init__(daemon=True)
        self.killed = 0
        self._head, self._kills, self._draw = head, kills, random.Random(SEED)
        self.ends = threading.Event()

    def run(self) -> None:
        while self.killed < self._kills and not self.ends.wait(self._draw.uniform(1.0, 5.0)):
            own = Path(f"/proc/{self._head.pid}/task/{self._head.pid}/children").read_text().split()
            added = [
                pid
                for pid, title in descendants(self._head.pid)
                if "raylet/raylet\0" in title and str(pid) not in own
            ]
            if not added:
                continue
            victim = self._draw.choice(added)
            for pid in (victim, *(below for below, _ in descendants(victim))):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.killed += 1


@pytest.mark.chaos
def test_ten_nodes_that_are_lost_cost_no_row_and_no_category(plant, archive, calm, tmp_path):
    name, kills = "lost", 10
    with sleeping(tmp_path, KINDS) as head:
        killer = Killer(head, kills)
        killer.start()
        found = run(head, configs(plant, archive, tmp_path, name))
        killer.ends.set()
        killer.join()
    assert killer.killed == kills
    assert found["score"]["exit_code"] == 0
    assert scores(plant, name, None) == sorted(scores(plant, "calm", None) * COPIES)
    assert found["train"]["counts"]["trained"] == 2
    assert found["train"]["counts"]["failed"] == 0
