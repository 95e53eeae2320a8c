"""Status actor: an actor that takes no CPU, to which workers report how far they are.

Its crash costs no work: it starts again empty, and its callers go on without an answer.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

log = logging.getLogger(__name__)

_ANSWER_S = 5.0


class StatusActor:
    """The latest reports by name, and the steps of shards under way."""

    def __init__(self) -> None:
        self._reports: dict[str, dict[str, Any]] = {}
        self.clear_steps()

    def report(self, name: str, row: Mapping[str, Any]) -> bool:
        """Adds values to the report of a name; whether it is the first of that name."""
        is_first = name not in self._reports
        self._reports[name] = {**self._reports.get(name, {}), **row}
        return is_first

    def reports(self) -> dict[str, dict[str, Any]]:
        """The report of every name."""
        return self._reports

    def report_of(self, name: str) -> dict[str, Any]:
        """The report of one name; empty before the first."""
        return self._reports.get(name, {})

    def forget(self, name: str) -> None:
        """Removes the report of a name."""
        self._reports.pop(name, None)

    def clear_steps(self) -> None:
        """Forgets the steps under way: a new pass begins."""
        self._begins: Counter[tuple[str, str]] = Counter()
        self._in_hand: set[tuple[str, str]] = set()

    def begin(self, shard: str, step: str) -> int:
        """Counts a start of a shard's step; the number of starts since the step last ended.

        In each of them but this one a process crashed, or was lost with its machine.
        """
        self._begins[shard, step] += 1
        self._in_hand.add((shard, step))
        return self._begins[shard, step]

    def end(self, shard: str, step: str) -> None:
        """Ends a step: a later start is not a crash, but a block that was lost with its node."""
        self._begins.pop((shard, step), None)
        self._in_hand.discard((shard, step))

    def in_hand(self) -> dict[str, int]:
        """The shards whose step is under way, with the number of its starts."""
        return {shard: self._begins[shard, step] for shard, step in self._in_hand}


@dataclass(frozen=True)
class ActorStatus:
    """`executor.Status` of a status actor, which tasks carry to their workers."""

    actor: Any

    def report(self, name: str, row: Mapping[str, Any]) -> None:
        """Adds values to the report of a name, without waiting."""
        self.actor.report.remote(name, dict(row))

    def reports(self) -> dict[str, dict[str, Any]]:
        """The report of every name; empty where the actor has crashed."""
        found: dict[str, dict[str, Any]] = ask(self.actor.reports.remote(), otherwise={})
        return found


def start() -> Any:
    """The handle of a new `StatusActor` beside the driver: no other node's loss ends it."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
    return ray.remote(StatusActor).options(**options).remote()


def ask(answer: Any, *, otherwise: Any) -> Any:
    """A status actor's answer to a call, or `otherwise` where it crashed and gives none."""
    try:
        return ray.get(answer, timeout=_ANSWER_S)
    except (RayActorError, GetTimeoutError) as error:
        log.warning("board_lost reason=%s", " ".join(str(error).split())[:200])
        return otherwise
