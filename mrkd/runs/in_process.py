"""Executor in this process: its threads, no Ray.

Categories and trials run side by side in threads, as many as Ray would start on this machine, and
each computes with as many threads of torch as there: results are equal to the bit. A process that
crashes takes the run with it; the same command goes on, and `--executor ray` finds the image.
"""

from __future__ import annotations

import ctypes
import logging
import shutil
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from mrkd.config import ScoreConfig
from mrkd.errors import ConfigError, MrkdError
from mrkd.nights.night import Night
from mrkd.nights.shards import Shard
from mrkd.runs.attempts import Attempt, attempts, failed
from mrkd.runs.category_training import TrainingTask, train_one
from mrkd.runs.resources import Node, Pool, Resources, scorer_pool, usable_cpus
from mrkd.runs.shards.committer import Committer
from mrkd.runs.shards.quarantine import SpanCrash
from mrkd.runs.shards.shard_work import Work, commit, may_drop_maps, read, score, score_part
from mrkd.runs.shards.timings import Meter
from mrkd.runs.trials import Report, TrialPlan, run_queue
from mrkd.storage.lease import Lease
from mrkd.training.fit.process_group import ProcessGroup

if TYPE_CHECKING:
    from mrkd.model.inference import Scorer
    from mrkd.runs.executor import Executor
    from mrkd.training.search import Trial

log = logging.getLogger(__name__)

_CANCEL_S = 10.0
_MAX_THREADS = 32


class InProcess:
    """`Executor` in threads of this process.

    Args:
        num_cpus: number of CPUs to use; None: all that this process may.
    """

    name = "in_process"

    def __init__(self, *, num_cpus: int | None = None) -> None:
        self._num_cpus = num_cpus or usable_cpus()

    def for_work(self, seconds: Callable[[], float]) -> Self:
        """Itself."""
        return self

    def connected(self, work: str = "", *, group_size: int = 1) -> AbstractContextManager[None]:
        """A block without a cluster.

        Raises:
            ConfigError: trainings by groups of workers, which need processes.
        """
        if group_size > 1:
            raise ConfigError(
                "fleet.workers_per_category is above 1, and a group of workers needs Ray: set "
                "executor to ray, or workers_per_category to 1"
            )
        return _kept_threads()

    @property
    def nodes(self) -> Sequence[Node]:
        """This machine, with one GPU if it has any: tasks of one process share the first."""
        import torch

        return [Node(self._num_cpus, float(torch.cuda.is_available()))]

    def new_status(self) -> LocalStatus:
        """A status in memory."""
        return LocalStatus()

    def gauge(self, name: str, text: str, tags: tuple[str, ...]) -> NoGauge:
        """A gauge that nobody reads: this process serves no metrics."""
        return NoGauge()

    def forget(self, folder: str, *, wait: bool = True) -> None:
        """Removes a folder."""
        shutil.rmtree(folder, ignore_errors=True)

    def run_each(
        self,
        function: Callable[..., Any],
        arguments: Mapping[str, tuple[Any, ...]],
        resources: Resources,
        *,
        shared: Any = None,
        max_failures: int,
        backoff_s: float = 0.0,
        at_once: int | None = None,
    ) -> Generator[Attempt, None, None]:
        """One thread for each category under way."""
        first = () if shared is None else (shared,)

        def prepared(name: str) -> Callable[[], Any]:
            return partial(function, *first, *arguments[name])

        return self._attempts(
            prepared, list(arguments), resources, max_failures, backoff_s=backoff_s, at_once=at_once
        )

    def _attempts(
        self,
        prepared: Callable[[str], Callable[[], Any]],
        names: Sequence[str],
        resources: Resources,
        max_failures: int,
        *,
        backoff_s: float = 0.0,
        at_once: int | None = None,
    ) -> Generator[Attempt, None, None]:
        at_once = self._room(resources, at_once)
        return attempts(
            _Threads(prepared, at_once),
            names,
            max_failures=max_failures,
            backoff_s=backoff_s,
            at_once=at_once,
        )

    def _room(self, resources: Resources, at_once: int | None) -> int:
        """Number of calls that may be under way; sets the threads of torch."""
        _set_threads(resources)
        (node,) = self.nodes
        rooms = [(node.cpus, resources.cpus), (node.gpus, resources.gpus)]
        most = max(1, min(int(room / held) for room, held in rooms if held))
        return most if at_once is None else min(at_once, most)

    def train_each(
        self,
        tasks: Mapping[str, TrainingTask],
        resources: Resources,
        *,
        group_size: int,
        max_failures: int,
        backoff_s: float,
    ) -> Generator[Attempt, None, None]:
        """One thread for each category under way."""
        return self.run_each(
            _train,
            {name: (task,) for name, task in tasks.items()},
            resources,
            max_failures=max_failures,
            backoff_s=backoff_s,
        )

    def committer(self, night: Night, config: ScoreConfig, lease: Lease) -> LocalCommitter:
        """A committer whose scorers are threads."""
        found = self.nodes
        return LocalCommitter(night, config, lease, scorer_pool(found, config.pool), found)

    def run_trials(self, plan: TrialPlan, trainable: Callable[[Trial, Report], None]) -> None:
        """One thread for each training under way."""
        at_once = self._room(plan.resources, plan.at_once)
        started: dict[str, Trial] = {}

        def one(trial: Trial) -> None:
            def report(row: Mapping[str, Any]) -> None:
                if plan.queue.is_below(trial, row["epoch"], row["objective"]):
                    raise _PrunedError

            with suppress(_PrunedError):
                trainable(trial, report)

        calls = _Threads(lambda name: partial(one, started[name]), at_once)
        run_queue(calls, replace(plan, at_once=at_once), started)


class LocalStatus:
    """`executor.Status` in memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reports: dict[str, dict[str, Any]] = {}

    def report(self, name: str, row: Mapping[str, Any]) -> None:
        """Adds values to the report of a name."""
        with self._lock:
            self._reports = {**self._reports, name: {**self._reports.get(name, {}), **row}}

    def reports(self) -> dict[str, dict[str, Any]]:
        """The report of every name."""
        return self._reports


class NoGauge:
    """`executor.Gauge` without a reader."""

    def set(self, value: float, tags: dict[str, str]) -> None:
        """Does nothing."""


class LocalCommitter(Committer):
    """Commits shards by threads: each reads a shard, has it scored, and commits it."""

    executor = "in_process"

    def __init__(
        self, night: Night, config: ScoreConfig, lease: Lease, pool: Pool, found: Sequence[Node]
    ) -> None:
        from mrkd.model.inference import Scorer

        super().__init__(night, config, lease, lambda *_: NoGauge())
        self.nodes, self._pool = found, pool
        self._without_maps = False
        self._threads = max(1, min(_MAX_THREADS, config.pool.gets_per_node // (2 * pool.size)))
        _set_threads(pool.each)
        self._scorer: Scorer = Scorer(config.workspace, config.pool)

    def drop_maps(self) -> None:
        """Stores no maps from now on."""
        self._without_maps = may_drop_maps(self.config)

    def begin_pass(self, *, last: bool) -> int:
        """The scorers stay."""
        self._last = last
        return 1

    def together(self, shards: Sequence[Shard]) -> Iterator[Work]:
        """Twice as many shards at one time as scorers, so that others are read meanwhile."""
        with (
            ThreadPoolExecutor(self._pool.size, "mrkd-scorer") as scorers,
            ThreadPoolExecutor(2 * self._pool.size, "mrkd-shard") as readers,
        ):
            left = iter(shards)
            running: dict[Future[Work], Shard] = {}
            try:
                while True:
                    for shard in left:
                        running[readers.submit(self._one, shard, scorers)] = shard
                        if len(running) >= 2 * self._pool.size:
                            break
                    if not running:
                        return
                    for done in wait(running, return_when=FIRST_COMPLETED).done:
                        shard, error = running.pop(done), done.exception()
                        if error is not None:  # a bug in the code: the quarantine finds the image
                            log.error("failed shard=%s", shard.id, exc_info=error)
                        yield done.result() if error is None else Work(shard, crashes=1)
            finally:
                readers.shutdown(wait=False, cancel_futures=True)
                scorers.shutdown(wait=False, cancel_futures=True)

    def _one(self, shard: Shard, scorers: ThreadPoolExecutor) -> Work:
        # The run's own meter counts the requests of this process.
        work, meter = Work(shard), Meter(with_requests=False)
        try:
            work = read(work, meter, self.config, threads=self._threads, last=self._last)
            work = scorers.submit(
                score,
                work,
                meter,
                self._scorer,
                self.config.rows,
                without_maps=self._without_maps,
            ).result()
            work = commit(work, meter, self.night)
        except MrkdError as error:
            work = Work(shard, failure=error)
        return replace(work, took=meter.took())

    def score_span(self, part: Shard) -> Work | SpanCrash:
        """A part of a shard; a crash is a bug in the code, which names its image."""
        at: list[tuple[str, int | None]] = [("start", None)]
        meter = Meter(with_requests=False)
        with ThreadPoolExecutor(1) as thread:
            done = thread.submit(
                score_part,
                part,
                meter,
                self.config,
                lambda: self._scorer,
                lambda step, number: at.append((step, number)),
                threads=self._threads,
                last=self._last,
            )
        error = done.exception()
        if error is None:
            return replace(done.result(), took=meter.took())
        if isinstance(error, MrkdError):
            return Work(part, failure=error, took=meter.took())
        if not isinstance(error, Exception):
            raise error
        return SpanCrash(*at[-1], f"{type(error).__name__}: {error}", bug=error)

    def suspects(self, shards: Sequence[Shard]) -> Sequence[Shard]:
        """None: a pass of this process does not break off."""
        return ()


class _PrunedError(Exception):
    """Ends a trial at a rung."""


class _CancelledError(BaseException):
    """Ends a call that a stopped run has no use for, at its next Python instruction."""


class _Threads:
    """PlacedCalls in threads."""

    def __init__(self, prepared: Callable[[str], Callable[[], Any]], at_once: int) -> None:
        self._prepared = prepared
        self._pool = ThreadPoolExecutor(at_once, "mrkd-call")
        self._idents: dict[Callable[[], Any], int] = {}
        self._calls: dict[Future[Any], Callable[[], Any]] = {}

    def start(self, category: str) -> Future[Any]:
        call = self._prepared(category)
        future = self._pool.submit(self._run, call)
        self._calls[future] = call
        return future

    def _run(self, call: Callable[[], Any]) -> Any:
        self._idents[call] = threading.get_ident()
        return call()

    def wait(self, running: Sequence[Future[Any]], timeout_s: float) -> Sequence[Future[Any]]:
        return list(wait(running, timeout_s, return_when=FIRST_COMPLETED).done)

    def end(self, handle: Future[Any], category: str, number: int) -> Attempt:
        del self._idents[self._calls.pop(handle)]
        error = handle.exception()
        if error is None:
            return Attempt(category, number, result=handle.result())
        text = "".join(traceback.format_exception(error))
        return failed(category, number, error, text)

    def cancel(self, running: Sequence[Future[Any]]) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for one in running:
            ident = self._idents.get(self._calls[one])
            if ident is not None and not one.done():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(ident), ctypes.py_object(_CancelledError)
                )
        wait(running, _CANCEL_S)


def _train(task: TrainingTask) -> Any:
    return train_one(task, ProcessGroup(), lambda row: None)


@contextmanager
def _kept_threads() -> Iterator[None]:
    """A block after which torch computes with as many threads as before."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _set_threads(each: Resources) -> None:
    import torch

    torch.set_num_threads(each.threads)


def _is_one(executor: InProcess) -> Executor:
    """Holds the type checker to the protocol."""
    return executor
