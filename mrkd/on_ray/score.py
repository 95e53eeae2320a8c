"""A night: an archive of images to rows in Parquet, each image exactly once.

Plan, commit and close are `mrkd.nights`; this is the way of a shard between them:

    todo -> read and decode (tasks) -> score (actors) -> commit (tasks) -> its status

A shard is one row, and so one block, from end to end. An error that a user can mend ends its shard,
not the pipeline; a bug ends the run. What was not committed is tried again, at most
`pool.max_shard_attempts` times, and after that by the next start.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.exceptions import RayError, RayTaskError
from ray.util.annotations import RayDeprecationWarning

from mrkd import checkpoint, registry, storage
from mrkd.config import ScoreConfig
from mrkd.errors import ConfigError, MrkdError, NightError, StorageError
from mrkd.lease import Lease
from mrkd.manifests import Manifest
from mrkd.nights import Night
from mrkd.on_ray import blocks, session, steps
from mrkd.on_ray.session import READER_CPUS, Pool
from mrkd.on_ray.steps import Work
from mrkd.on_ray.verdict import Verdict
from mrkd.plans import Pin, Shard
from mrkd.summary import Summary

log = logging.getLogger(__name__)

_ONE_ROW: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
_PROGRESS_S = 30.0
_RETRIES = 2
"""Times that Ray starts a process again which a shard has killed; without a bound, for ever."""


def run(config: ScoreConfig) -> Summary:
    """Scores what the archive holds and the night does not, by the champions of the workspace.

    Raises:
        ConfigError: there is no archive or no model, or the night was planned otherwise; nothing
            was started.
        NightError: another run holds the night, or shards could not be committed; what was
            committed stands, and the same command goes on from there.
        ArtefactError: a model is damaged.
        StorageError: the workspace or the archive cannot be read or written.
    """
    check_places(config.workspace, config.archive.uri)
    night = Night(config.workspace, config.run)
    manifests: list[Manifest] = []
    with (
        night.lease() as lease,
        Verdict("score", config.run, night.uri) as verdict,
        ExitStack() as ray_session,
    ):
        for revision in night.revisions(config, lambda category: pin(config.workspace, category)):
            if night.todo(revision):
                ray_session.enter_context(session.connect())
                _score_revision(night, revision, config, lease)
            manifests.append(night.close(revision))
        return _end(verdict, night, manifests, config)


def check_places(workspace: str, root: str) -> None:
    """Refuses places that are most likely misspelt.

    Raises:
        ConfigError: there is nothing at `root`, or no model in the workspace.
    """
    if not storage.exists(root):
        raise ConfigError(f"there is no file at or below {root!r}: correct the URI")
    if not storage.list_names(storage.join(workspace, "models")):
        raise ConfigError(
            f"there is no model in workspace {workspace!r}: correct the URI, or train first"
        )


def pin(workspace: str, category: str) -> Pin | None:
    """The champion of a category, to be kept for a whole revision; None where there is none."""
    promotion = registry.champion(workspace, category)
    if promotion is None:
        return None
    card = checkpoint.read_card(workspace, category, promotion.version)
    return Pin(promotion.version, promotion.calibration, card.teacher.name)


def _score_revision(night: Night, revision: int, config: ScoreConfig, lease: Lease) -> None:
    """Commits every shard of a revision, or raises why one could not be."""
    pool = session.scorer_pool(session.nodes(), config.pool)
    failure: MrkdError | None = None
    for attempt in range(1, config.pool.max_shard_attempts + 1):
        shards = night.todo(revision)
        if not shards:
            return
        if failure:
            log.warning("again attempt=%d shards=%d reason=%s", attempt, len(shards), failure)
            time.sleep(min(60, 2**attempt))
        last = attempt == config.pool.max_shard_attempts
        failure = _score_shards(shards, config, pool, lease, last=last)
        if failure and not isinstance(failure, StorageError | _ProcessDied):
            raise failure
    if failure and night.todo(revision):
        raise failure


class _ProcessDied(NightError):
    """Shards are left because a process died of one of them, or with its machine."""


def _score_shards(
    shards: Sequence[Shard], config: ScoreConfig, pool: Pool, lease: Lease, *, last: bool
) -> MrkdError | None:
    """One pass over shards; of the failures it met, one that no second pass would mend, if any."""
    failure: MrkdError | None = None
    progress = _Progress(shards)
    try:
        for row in _pipeline(shards, config, pool, last=last).iter_batches(**_ONE_ROW):
            lease.check()
            work: Work = blocks.unpack(row)
            if work.failure is None:
                progress.add(work.shard)
            elif failure is None or isinstance(failure, StorageError):
                failure = work.failure
    except RayTaskError:
        raise
    except RayError as error:
        reason = str(error).strip().partition("\n")[0]
        failure = _ProcessDied(
            f"a process died with the shard it worked on ({reason}), {progress.left} shards are "
            "left: start the run again; if it dies again, look into the log for the last shard"
        )
    return failure


def _pipeline(shards: Sequence[Shard], config: ScoreConfig, pool: Pool, *, last: bool) -> Dataset:
    """The way of each shard; nothing runs before it is iterated."""
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Ray 2.60 deprecates `max_...` here and has no other way to bound the retries yet.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return (
            ray.data.from_arrow([blocks.pack(Work(shard)) for shard in shards])
            .map_batches(
                partial(steps.read, config=config, last=last),
                num_cpus=READER_CPUS,
                max_retries=_RETRIES,
                **_ONE_ROW,
            )
            .map_batches(
                steps.Score,
                fn_constructor_kwargs={"config": config, "ask": pool.ask},
                compute=ActorPoolStrategy(size=pool.size),
                num_cpus=pool.ask.cpus,  # 0 beside a GPU: unsaid, it would be 1
                num_gpus=pool.ask.gpus,
                max_restarts=_RETRIES,
                max_task_retries=_RETRIES,
                **_ONE_ROW,
            )
            .map_batches(
                partial(steps.commit, config=config),
                num_cpus=READER_CPUS,
                max_retries=_RETRIES,
                **_ONE_ROW,
            )
        )


class _Progress:
    """Logs how far a pass is, every half minute."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.left, self._num_images = len(shards), 0
        self._began = self._said = time.monotonic()

    def add(self, shard: Shard) -> None:
        """Counts a committed shard."""
        self.left -= 1
        self._num_images += shard.rows.num_rows
        now = time.monotonic()
        if now - self._said >= _PROGRESS_S or not self.left:
            self._said, speed = now, self._num_images / (now - self._began)
            log.info(
                "progress images=%d shards_left=%d images_per_s=%.1f",
                self._num_images,
                self.left,
                speed,
            )


def _end(
    verdict: Verdict, night: Night, closed: Sequence[Manifest], config: ScoreConfig
) -> Summary:
    """The verdict over the revisions that this start has closed."""
    kinds = sum((Counter(manifest.counts) for manifest in closed), Counter[str]())
    num_images = kinds.total()
    errors = {kind: n for kind, n in sorted(kinds.items()) if kind not in ("ok", "nok")}
    num_errors = sum(errors.values())
    listed = ", ".join(f"{kind} {n}" for kind, n in errors.items())
    reasons = [f"{num_errors} of {num_images} images have no score: {listed}"] if errors else []
    return verdict.end(
        3 if num_errors > config.max_error_share * num_images else 0,
        counts={"images": num_images, **dict.fromkeys(("ok", "nok"), 0), **kinds},
        uris={
            "scores": storage.join(night.uri, "scores"),
            "manifest": storage.join(night.uri, "_MANIFEST.json"),
        },
        reasons=reasons,
    )
