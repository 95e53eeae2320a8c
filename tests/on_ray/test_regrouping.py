"""A night that loses a node goes on with those that there are."""

import logging
import time
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError

from mrkd.config import PoolConfig
from mrkd.nights.manifest import open_night
from mrkd.runs import score
from mrkd.runs.on_ray import cluster, status_actor
from mrkd.runs.on_ray.score import resize_pool
from mrkd.runs.on_ray.score.resize_pool import PoolWatch, resized_pool
from mrkd.runs.on_ray.score.steps import SCORERS
from mrkd.runs.resources import Node, Pool, Resources, scorer_pool
from tests.support.rays import RAY

CPUS = [Node(2.0), Node(2.0)]
GPUS = [Node(8.0, 2.0), Node(8.0, 2.0)]


class Idle:
    """An actor that does nothing but join a board."""

    def join(self, board: Any) -> None:
        context = ray.get_runtime_context()
        ray.get(board.report.remote(SCORERS, {context.get_actor_id(): context.current_actor}))


@pytest.mark.parametrize(
    ("before", "found", "expected"),
    [
        (CPUS, CPUS[:1], Pool(2, Resources(0.5))),
        (GPUS, GPUS[:1], Pool(2, Resources(0.0, 1.0))),
        (GPUS[:1], GPUS, Pool(4, Resources(0.0, 1.0))),
        (GPUS, [], Pool(4, Resources(0.0, 1.0))),
        (GPUS, CPUS, Pool(4, Resources(0.0, 1.0))),
    ],
    ids=["fewer CPUs", "fewer GPUs", "more GPUs", "none", "no CPUs in place of GPUs"],
)
def test_the_pool_follows_the_nodes_or_waits_for_them(before, found, expected):
    pool = scorer_pool(before, PoolConfig())
    assert resized_pool(pool, found, PoolConfig()) == expected


def test_a_node_must_be_missed_for_a_while_before_its_scorers_are_taken_out(monkeypatch):
    monkeypatch.setattr(resize_pool, "_GRACE_S", 0.25)
    board = status_actor.start()
    scorers: list[Any] = [ray.remote(Idle).options(num_cpus=0).remote() for _ in range(4)]
    for one in scorers:
        ray.get(one.join.remote(board))
    watch = PoolWatch(scorer_pool(CPUS, PoolConfig()), board)
    answers = iter([CPUS[:1], CPUS, CPUS[:1], CPUS[:1], CPUS[:1], [], CPUS[:1]])
    monkeypatch.setattr(cluster, "live_nodes", lambda: next(answers))
    done = []
    for pause in (0.3, 0.3, 0.1, 0.2, 0.0, 0.3, 0.0):
        watch.look()
        done.append(watch.has_shrunk)
        time.sleep(pause)
    assert done == [False, False, False, False, True, True, True]
    for one in scorers[:3]:  # beside which one reader has room
        ray.get(one.join.remote(board), timeout=30)
    with pytest.raises(RayActorError):
        ray.get(scorers[3].join.remote(board), timeout=30)
    board.forget.remote(SCORERS)
    assert status_actor.ask(board.report_of.remote(SCORERS), otherwise=None) == {}


def test_a_pass_of_few_scorers_loses_none_of_them(monkeypatch):
    monkeypatch.setattr(resize_pool, "_GRACE_S", 0.0)
    board = status_actor.start()
    scorer: Any = ray.remote(Idle).options(num_cpus=0).remote()
    ray.get(scorer.join.remote(board))
    watch = PoolWatch(scorer_pool(CPUS, PoolConfig()), board)
    monkeypatch.setattr(cluster, "live_nodes", lambda: CPUS[:1])
    watch.look()
    assert not watch.has_shrunk
    ray.get(scorer.join.remote(board), timeout=30)


def test_a_night_with_more_scorers_than_the_nodes_now_hold_ends_with_every_row(
    plant, archive, calm, monkeypatch, caplog
):
    """As where a node was lost: Ray gives all CPUs to scorers, and none is left to read."""
    monkeypatch.setattr(resize_pool, "_GRACE_S", 2.0)
    told = cluster.nodes
    answers = iter([CPUS, CPUS])
    monkeypatch.setattr(cluster, "nodes", lambda: next(answers, None) or told())
    # With a deadline of ten minutes it is looked at every 2.5 s.
    config = plant.score_config(archive, "regrouped", **{"deadline.within": "10m"})
    with caplog.at_level(logging.INFO, "mrkd"):
        summary = score.run(config, RAY)
    assert "regroup scorers=3 before=4" in caplog.text
    assert (summary.exit_code, summary.counts["images"]) == (0, calm.counts["images"])
    rows = open_night(str(plant.night("regrouped"))).to_table()
    assert rows["image_score"].null_count == 0
