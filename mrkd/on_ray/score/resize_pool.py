"""A pass over a night's shards is made for the nodes that there are; one of these may be lost.

Ray starts its scorers again on the nodes that are left. They find no room there, and what they had
in hand waits for ever; or they find it, and none is left for those that read. So those that are too
many are taken out of the pass: it goes on with fewer, or it fails, and the next one is made for the
nodes that there are then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError

from mrkd.config import PoolConfig
from mrkd.errors import ConfigError
from mrkd.on_ray import cluster, status_actor
from mrkd.on_ray.cluster import Node, Pool

log = logging.getLogger(__name__)

_GRACE_S, _AUTOSCALED_S = 20.0, 600.0
"""For which nodes must be missed: a new one in a lost one's place may be under way."""


def pool_in_place_of(before: Pool, found: Sequence[Node], config: PoolConfig) -> Pool:
    """The pool for these nodes; the one before where they hold none, to wait for others.

    Nor do CPUs take the place of GPUs, whose rows would be others.
    """
    try:
        pool = cluster.scorer_pool(found, config)
    except ConfigError as error:
        log.warning("no_room reason=%s", error)
        return before
    return before if before.ask.gpus and not pool.ask.gpus else pool


class Regrouping:
    """Takes out of one pass the scorers that its nodes hold no longer.

    Where they hold none at all, nothing is better than to wait for a node.

    Args:
        pool: of the pass.
        board: where its scorers have put themselves down.

    Attributes:
        done: whether any was taken out; what fails from then on is no shard's fault.
    """

    def __init__(self, pool: Pool, board: Any) -> None:
        self.done = False
        self._pool, self._board = pool, board
        self._grace_s = _AUTOSCALED_S if cluster.is_autoscaled() else _GRACE_S
        self._since: float | None = None

    def look(self) -> None:
        """Looks at the nodes; called every so often."""
        try:
            room = cluster.scorer_room(cluster.nodes(), self._pool.ask)
        except RayError as error:
            log.warning("nodes_unknown reason=%s", " ".join(str(error).split())[:200])
            return
        if room >= self._pool.size:
            self._since = None
            return
        self._since = self._since or time.monotonic()
        if not room or time.monotonic() - self._since < self._grace_s:
            return
        # Those of a small pass may be few enough; those that are being started join later.
        surplus = status_actor.ask(self._board.scorers.remote(), otherwise=[])[room:]
        if surplus:
            log.warning("regroup scorers=%d before=%d", room, self._pool.size)
            self.done, self._pool, self._since = True, replace(self._pool, size=room), None
        for scorer in surplus:
            ray.kill(scorer)
