"""Resizing of a pass's scorer pool after the loss of a node.

Ray starts the lost scorers again on the remaining nodes. Either they find no room there, and their
shards wait for ever; or they find it, and leave none for the readers. So the surplus scorers are
removed from the pass: it goes on with fewer, or it fails, and the next pass is made for the nodes
that then exist.
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
from mrkd.runs.on_ray import cluster, status_actor
from mrkd.runs.on_ray.score.steps import SCORERS
from mrkd.runs.resources import Node, Pool, scorer_pool, scorer_room

log = logging.getLogger(__name__)

_GRACE_S, _AUTOSCALED_S = 20.0, 600.0
"""Seconds for which nodes must be missing: a replacement may be under way."""


def resized_pool(before: Pool, found: Sequence[Node], config: PoolConfig) -> Pool:
    """The pool for these nodes; the earlier pool where they hold none, to wait for other nodes.

    CPUs never replace GPUs: the rows would differ.
    """
    try:
        pool = scorer_pool(found, config)
    except ConfigError as error:
        log.warning("no_room reason=%s", error)
        return before
    return before if before.each.gpus and not pool.each.gpus else pool


class PoolWatch:
    """Removes from a pass the scorers for which its nodes have no room any longer.

    Where they have room for none at all, it waits for a node.

    Attributes:
        has_shrunk: whether any scorer was removed; a later failure is not a shard's fault.
    """

    def __init__(self, pool: Pool, status: Any) -> None:
        self.has_shrunk = False
        self._pool, self._status = pool, status
        self._grace_s = _AUTOSCALED_S if cluster.is_autoscaled() else _GRACE_S
        self._since: float | None = None

    def look(self) -> None:
        """Checks the nodes; called at intervals."""
        try:
            room = scorer_room(cluster.live_nodes(), self._pool.each)
        except RayError as error:
            log.warning("nodes_unknown reason=%s", " ".join(str(error).split())[:200])
            return
        if room >= self._pool.size:
            self._since = None
            return
        self._since = self._since or time.monotonic()
        if not room or time.monotonic() - self._since < self._grace_s:
            return
        # A small pass may have few enough; scorers that are being started join later.
        scorers = status_actor.ask(self._status.report_of.remote(SCORERS), otherwise={})
        surplus = list(scorers.values())[room:]
        if surplus:
            log.warning("regroup scorers=%d before=%d", room, self._pool.size)
            self.has_shrunk, self._pool, self._since = True, replace(self._pool, size=room), None
        for scorer in surplus:
            ray.kill(scorer)
