"""Slots: what makes the calls of a run, each one after another.

A process that has used CUDA keeps its GPU, whichever Ray gives to its next task: so a GPU, or a
part of one, belongs to an actor for its whole life. On CPUs any warm process will do. A slot that
finds no room waits as a demand that an autoscaler sees, and begins when its node has come.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import ray
from ray.exceptions import (
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)

from mrkd.errors import MrkdError
from mrkd.runs.attempts import Attempt, attempts, failed, one_line
from mrkd.runs.on_ray import cluster
from mrkd.runs.resources import AHEAD_CPUS, Resources, room_for

Ref = ray.ObjectRef[Any]

_LOOK_S = 5.0
"""Seconds between two looks at the nodes while calls wait for a slot."""
_NODE_LOSS_S = 15.0
"""Seconds within which Ray learns that the node of an actor without an answer is lost."""


class SlotActor:
    """The process of a slot that holds a GPU."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def begin(self) -> str:
        """Makes the process ready to compute; the id of its node.

        Raises:
            MrkdError: its GPU cannot be used.
        """
        cluster.enter_worker(self._resources)
        return str(ray.get_runtime_context().get_node_id())

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The function's result; memory of the GPU that it no longer uses is free afterwards."""
        import torch

        try:
            return function(*arguments)
        finally:
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()


class Slot(Protocol):
    """What makes calls, one after another.

    Attributes:
        node: id of its node; empty before it began, and where each call may be on another.
    """

    @property
    def node(self) -> str:
        """The id of its node."""

    def begin(self) -> Ref:
        """The id of its node, once it is ready to compute."""

    def begun(self, node: str) -> Slot:
        """The slot, known to be on a node."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Ref:
        """Starts a call, which has the function's name."""

    def end(self, call: Ref | None = None) -> None:
        """Ends the slot, and the call that is under way."""


@dataclass(frozen=True)
class ActorSlot:
    """A slot whose process holds its resources from begin to end."""

    actor: Any
    node: str = ""

    def begin(self) -> Ref:
        """The id of its node, once it is ready."""
        ref: Ref = self.actor.begin.remote()
        return ref

    def begun(self, node: str) -> ActorSlot:
        """The slot with its node."""
        return replace(self, node=node)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Ref:
        """Starts a call."""
        ref: Ref = self.actor.call.options(name=function.__name__).remote(function, *arguments)
        return ref

    def end(self, call: Ref | None = None) -> None:
        """Ends its process."""
        ray.kill(self.actor)


@dataclass(frozen=True)
class TaskSlot:
    """A slot on CPUs: a task for each call, in a process that stays warm for later ones.

    Between calls it holds nothing.
    """

    task: Any
    options: Mapping[str, Any]
    node: str = ""

    def begin(self) -> Ref:
        """An empty text, as each call may be on another node."""
        return ray.put("")

    def begun(self, node: str) -> TaskSlot:
        """Itself."""
        return self

    def call(self, function: Callable[..., Any], *arguments: Any) -> Ref:
        """Starts a call."""
        task = self.task.options(name=function.__name__, **self.options)
        ref: Ref = task.remote(function, *arguments)
        return ref

    def end(self, call: Ref | None = None) -> None:
        """Ends the call that is under way."""
        if call is not None:
            ray.cancel(call, force=True)


def new_slot(held: Resources, computes: Resources, environment: Mapping[str, str]) -> Slot:
    """A slot, which may have to wait for room.

    Args:
        held: resources that it holds.
        computes: resources that its calls compute with.
        environment: environment variables of its process and of those that it starts.
    """
    options: dict[str, Any] = {
        "num_cpus": held.cpus,
        "memory": held.memory or None,
        "label_selector": cluster.label_selector(held.labels) or None,
        "runtime_env": {"env_vars": dict(environment)} if environment else None,
    }
    if held.gpus:
        actor: Any = ray.remote(SlotActor).options(num_gpus=held.gpus, **options)
        return ActorSlot(actor.remote(computes))

    def in_worker(function: Callable[..., Any], *arguments: Any) -> Any:
        cluster.enter_worker(computes)
        return function(*arguments)

    # Tried again here, not by Ray, so that every attempt is seen and counted.
    return TaskSlot(ray.remote(in_worker), options | {"max_retries": 0})


def begun(slot: Slot) -> Slot:
    """The slot once it is ready, with its node.

    Raises:
        MrkdError: its device cannot be used.
        RayError: its process died.
    """
    try:
        return slot.begun(ray.get(slot.begin()))
    except RayTaskError as error:
        slot.end()
        raise error.cause from error


def loss_of(error: BaseException, node: str) -> str:
    """Why a slot was lost through no fault of its call; empty where its process crashed by itself.

    Args:
        error: error of the call.
        node: id of the slot's node; empty where it never began.
    """
    if isinstance(error, OutOfMemoryError):
        return "its node had no memory left"
    if isinstance(error, NodeDiedError) or getattr(error, "preempted", False):
        return "its node was taken away"
    if not isinstance(error, RayActorError) or not node:
        return ""
    until = time.monotonic() + (_NODE_LOSS_S if isinstance(error, ActorUnavailableError) else 0.0)
    while cluster.is_alive(node):
        if time.monotonic() >= until:
            return ""
        time.sleep(0.5)
    return "its node was lost"


def run_each(
    function: Callable[..., Any],
    arguments: Mapping[str, tuple[Any, ...]],
    resources: Resources,
    *,
    max_failures: int,
    backoff_s: float = 0.0,
    at_once: int | None = None,
    environment: Mapping[str, str] | None = None,
    held: Resources | None = None,
    before: Callable[..., Any] | None = None,
) -> Generator[Attempt, None, None]:
    """`Executor.run_each` in slots.

    Args:
        function: function that is called with a category's arguments.
        arguments: arguments by category.
        resources: resources that each call computes with.
        max_failures: number of further starts of a category that failed.
        backoff_s: seconds before the first of them.
        at_once: calls under way at one time; None: as many as there is room for.
        environment: environment variables of the calls and of the processes that they start.
        held: resources that each slot holds, where other processes compute; None: `resources`.
        before: function of a category's arguments that is called first, by a task beside the slots;
            its result is the last argument of the call. One for each slot is made ahead.
    """
    slots = partial(new_slot, held or resources, resources, environment or {})
    calls = _Slots(function, arguments, held or resources, slots, before)
    options: dict[str, Any] = {"max_failures": max_failures, "backoff_s": backoff_s}
    return attempts(calls, arguments, at_once=at_once, **options)


class _Slots:  # its methods: `attempts.PlacedCalls`
    """PlacedCalls in slots; a call's handle is its category."""

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: Mapping[str, tuple[Any, ...]],
        held: Resources,
        slots: Callable[[], Slot],
        before: Callable[..., Any] | None,
    ) -> None:
        self._function, self._arguments, self._held = function, arguments, held
        self._new_slot, self._before = slots, before
        # A category is in one of these: to be prepared, being so, ready for a slot, in it, ended.
        self._queued: deque[str] = deque()
        self._preparing: dict[Ref, str] = {}
        self._waiting: deque[tuple[str, tuple[Ref, ...]]] = deque()
        self._busy: dict[Ref, tuple[str, Slot]] = {}
        self._ended: dict[str, tuple[Ref, Slot]] = {}
        self._idle: list[Slot] = []
        self._starting: dict[Ref, Slot] = {}
        self._room, self._looked_at = 0, 0.0

    def start(self, category: str) -> str:
        if self._before:
            self._queued.append(category)
        else:
            self._waiting.append((category, ()))
        return category

    def wait(self, running: Sequence[str], timeout_s: float) -> Sequence[str]:
        self._place()
        refs = [*self._starting, *self._preparing, *self._busy]
        if not refs:  # every node is gone, and no other is to be had yet
            time.sleep(min(timeout_s, _LOOK_S))
            return ()
        # What was prepared is not fetched: it is for a slot, not for this process.
        timeout_s = min(timeout_s, _LOOK_S)
        for ref in ray.wait(refs, num_returns=1, timeout=timeout_s, fetch_local=False)[0]:
            if ref in self._starting:
                self._begin(ref)
            elif ref in self._preparing:
                self._waiting.append((self._preparing.pop(ref), (ref,)))
            else:
                category, slot = self._busy.pop(ref)
                self._ended[category] = ref, slot
        self._place()
        return list(self._ended)

    def end(self, handle: str, category: str, number: int) -> Attempt:
        ref, slot = self._ended.pop(category)
        try:
            attempt = Attempt(category, number, result=ray.get(ref))
        except RayTaskError as error:
            cause = error.cause
            attempt = failed(category, number, cause, str(error))
            if isinstance(cause, RayError):  # what the call itself waited for was lost
                short = isinstance(cause, OutOfMemoryError)
                attempt = replace(attempt, last=False, out_of_memory=short, lost=loss_of(cause, ""))
            if not isinstance(cause, MrkdError):  # its device may have failed
                slot.end()
                return attempt
        except RayError as error:
            slot.end()
            return _died(category, number, error, loss_of(error, slot.node))
        self._idle.append(slot)
        return attempt

    def cancel(self, running: Sequence[str]) -> None:
        for ref in self._preparing:
            ray.cancel(ref, force=True)
        for ref, (_, slot) in self._busy.items():
            slot.end(ref)
        for slot in (*self._starting.values(), *self._idle):
            slot.end()

    def _place(self) -> None:
        """Gives ready calls to idle slots, prepares others, and starts or ends slots."""
        while self._waiting and self._idle:
            (category, prepared), slot = self._waiting.popleft(), self._idle.pop()
            ref = slot.call(self._function, *self._arguments[category], *prepared)
            self._busy[ref] = category, slot
        soon = len(self._waiting) + len(self._preparing)
        if (self._queued or soon) and time.monotonic() - self._looked_at > _LOOK_S:
            self._room, self._looked_at = self._room_now(), time.monotonic()
        for _ in range(min(len(self._queued), max(1, self._room) - soon)):
            self._prepare(self._queued.popleft())
        soon = len(self._waiting) + len(self._preparing)
        num_slots = len(self._starting) + len(self._busy) + len(self._idle)
        lacking = soon - len(self._starting) - len(self._idle)
        for _ in range(min(lacking, self._room - num_slots)):
            slot = self._new_slot()
            self._starting[slot.begin()] = slot
        if self._held.gpus and not soon:
            while self._idle:  # others may use its GPU
                self._idle.pop().end()

    def _prepare(self, category: str) -> None:
        assert self._before
        task: Any = ray.remote(self._before).options(
            num_cpus=AHEAD_CPUS, name=self._before.__name__
        )
        self._preparing[task.remote(*self._arguments[category])] = category

    def _room_now(self) -> int:
        if not (self._held.cpus or self._held.gpus):
            return len(self._arguments)
        return room_for(cluster.nodes(), self._held)

    def _begin(self, ref: Ref) -> None:
        """Takes in a slot that was started.

        Raises:
            MrkdError: its device cannot be used.
        """
        slot = self._starting.pop(ref)
        try:
            self._idle.append(slot.begun(ray.get(ref)))
        except RayTaskError as error:
            slot.end()
            raise error.cause from error
        except RayError:
            slot.end()
            if self._waiting:  # ended with the call that would have been its first
                self._ended[self._waiting.popleft()[0]] = ref, slot


def _died(category: str, number: int, error: RayError, lost: str) -> Attempt:
    return Attempt(
        category,
        number,
        error=one_line(f"{lost}: {error}" if lost else f"its worker died: {error}"),
        traceback=str(error),
        last=False,
        out_of_memory=isinstance(error, OutOfMemoryError),
        lost=lost,
    )
