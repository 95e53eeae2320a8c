"""Runs a night and a fleet on the cluster at RAY_ADDRESS, and watches which nodes take part.

    python -m tests.support.asleep NIGHT.toml FLEET.toml

Prints a JSON line: the summaries, and by kind of node (CPUs and GPUs) how many were seen at one
time and how many of them worked.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from typing import Any

from mrkd.config import ScoreConfig, TrainConfig
from mrkd.runs import score, train
from mrkd.runs.on_ray import cluster
from mrkd.runs.on_ray.executor import OnRay


class Watch:
    """What nodes there are while a run is under way, and which of them have work."""

    def __init__(self) -> None:
        self.there: Counter[str] = Counter()
        self.worked: dict[str, str] = {}
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _look(self) -> None:
        import ray  # after mrkd.runs.on_ray, as for a command

        state: Any = ray._private.state
        while not self._ends.wait(0.1):
            free = state.available_resources_per_node()
            now: Counter[str] = Counter()
            nodes: list[dict[str, Any]] = ray.nodes()
            for node in nodes:
                if not node["Alive"]:
                    continue
                all_of = node["Resources"]
                kind = f"{all_of.get('CPU', 0):g} CPU {all_of.get('GPU', 0):g} GPU"
                now[kind] += 1
                left = free.get(node["NodeID"], all_of)
                if any(left.get(name, 0) < all_of.get(name, 0) for name in ("CPU", "GPU")):
                    self.worked[node["NodeID"]] = kind
            self.there |= now

    def seen(self) -> dict[str, tuple[int, int]]:
        """By kind: the most nodes at one time, and those that ever worked."""
        worked = Counter(self.worked.values())
        return {kind: (number, worked[kind]) for kind, number in self.there.items()}


def main(night: str, fleet: str) -> None:
    """Runs both, and then waits until all nodes have left."""
    found: dict[str, Any] = {}
    with cluster.connect():
        before = len(cluster.live_nodes())
        runs = {
            "score": lambda: score.run(ScoreConfig.from_toml(night), OnRay()),
            "train": lambda: train.run(TrainConfig.from_toml(fleet), OnRay()),
        }
        for name, run in runs.items():
            with Watch() as watch:
                found[name] = run().to_dict()
            found[f"{name}_nodes"] = watch.seen()
        until = time.monotonic() + 90
        while len(cluster.live_nodes()) > before and time.monotonic() < until:
            time.sleep(0.5)
        found["left"] = len(cluster.live_nodes()) - before
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
