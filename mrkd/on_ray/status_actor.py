"""Boards: actors that take no CPU, to which workers say how far they are.

A board that dies takes no work along: it begins anew, empty, and who asks it goes on without.
"""

from __future__ import annotations

import logging
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

log = logging.getLogger(__name__)

_ANSWER_S = 5.0


def start(kind: type) -> Any:
    """The handle of an actor of that class, beside the driver: no other node takes it along."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
    return ray.remote(kind).options(**options).remote()


def ask(answer: Any, *, otherwise: Any) -> Any:
    """A board's answer to a call, or `otherwise` where it gives none, as it died."""
    try:
        return ray.get(answer, timeout=_ANSWER_S)
    except (RayActorError, GetTimeoutError) as error:
        log.warning("board_lost reason=%s", " ".join(str(error).split())[:200])
        return otherwise
