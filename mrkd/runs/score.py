"""Night: an archive of images to rows in Parquet, each image exactly once.

Plan, commit and close are in `mrkd.nights.night`; the scoring of a revision is in `committer`:

    for each revision that is not closed, then for the new images:
        todo -> the golden set -> passes of the pipeline -> manifest
    parts, profile and page, from the stored rows
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from mrkd import reports, storage
from mrkd.config import ScoreConfig
from mrkd.config.toml import nearest
from mrkd.errors import (
    ArtefactError,
    ConfigError,
    MrkdError,
    NightError,
    StoppedError,
    StorageError,
)
from mrkd.model import artefact
from mrkd.nights import alerts, archive, model_versions, part_verdicts, reference_parts
from mrkd.nights.manifest import Manifest, count_rows, passed_over_line, unopened
from mrkd.nights.night import Night
from mrkd.nights.shards import Pin
from mrkd.run_summary import Summary, now, some_of
from mrkd.runs.choice import Auto
from mrkd.runs.executor import Executor, ExecutorChoice
from mrkd.runs.recorded_run import STATES, RecordedRun, recorded_run
from mrkd.runs.resources import scorer_pool
from mrkd.runs.shards.committer import Committer, Done
from mrkd.runs.shards.deadline import deadline_of
from mrkd.runs.shards.timings import Meter, add_start
from mrkd.storage.lease import Lease
from mrkd.storage.schema import ERROR_KINDS
from mrkd.storage.thread_map import in_threads

log = logging.getLogger(__name__)

_MAX_FAILURES = 1
"""Further starts of a worker of the golden set that crashed."""


def run(config: ScoreConfig, executor: ExecutorChoice) -> Summary:
    """Scores the archive's images that the night lacks, by the champions of the workspace.

    A signal (SIGTERM, SIGINT) ends it with a summary.

    Raises:
        ConfigError: the archive or every model is missing, the template or the pool is impossible,
            or the night was planned with another config; nothing was started.
        StoppedError: a signal ended it; the same command goes on.
        NightError: another run holds the night, or shards could not be committed;
            committed rows are kept, and the same command goes on from there.
        ArtefactError: a model is damaged.
        StorageError: the workspace or the archive cannot be read or written.
    """
    versions = _check(config)
    night = Night(config.workspace, config.run)
    with night.lease() as lease, recorded_run("score", config.run, night.uri, lease) as record:
        with ExitStack() as stack:
            start = _Start(night, config, executor, versions, lease, stack)
            stack.callback(start.store)
            manifests = start.close_all()
        uris, num_alerts, reasons = _report(night, config)
        return _end(record, night, manifests, config, uris, num_alerts, start.problems + reasons)


def run_days(
    config: ScoreConfig, before: Sequence[ScoreConfig], executor: ExecutorChoice
) -> Summary:
    """Scores a day, then what came late for earlier days, as revisions of their own nights.

    An earlier day without an archive is skipped. A day that fails, the first one too, does not end
    the others. Returns the summary of the day itself, or its error, with the late images among its
    counts and reasons.

    Raises:
        StoppedError: a signal ended it; the same command goes on.
    """
    started_at = now()
    try:
        first = run(config, executor)
    except StoppedError:
        raise
    except MrkdError as error:
        state = "refused" if isinstance(error, ConfigError) else "failed"
        first = Summary(
            command="score",
            run=config.run,
            exit_code=error.exit_code,
            state=state,
            started_at=started_at,
            finished_at=now(),
            reasons=[str(error)],
        )
    reasons, codes = list(first.reasons), [first.exit_code]
    images = behind = 0
    for config in before:
        try:
            if not storage.exists(config.archive.manifest or config.archive.uri):
                continue
            late = run(config, executor)
        except StoppedError:
            raise
        except MrkdError as error:
            codes.append(1)
            reasons.append(f"{config.run}: {error}")
            continue
        codes.append(late.exit_code)
        # A warning about a model, given once, holds for every night that it decided.
        news = [reason for reason in late.reasons if reason not in first.reasons]
        reasons += [f"{config.run}: {reason}" for reason in news]
        if late.counts["images"]:
            behind += 1
            images += late.counts["images"]
            reasons.append(f"{config.run}: {late.counts['images']} images came late")
    # A failure has priority over a partial end.
    code = min((code for code in codes if code), default=0)
    counts = {**first.counts, "late_images": images, "late_nights": behind}
    state = first.state if code == first.exit_code else STATES[code]
    return replace(first, exit_code=code, state=state, counts=counts, reasons=reasons)


def _check(config: ScoreConfig) -> dict[str, str]:
    """Refuses what is most likely misspelt, before anything is started; returns the versions."""
    archive.Template(config.archive.template)
    if unknown := sorted(set(config.retry_errors) - set(ERROR_KINDS)):
        raise ConfigError(
            f"retry_errors holds {', '.join(unknown)}{nearest(unknown[0], list(ERROR_KINDS))}"
        )
    check_roots(config.workspace, config.archive.manifest or config.archive.uri)
    if config.golden.uri:
        reference_parts.list_references(config)
    alerts.url_of(config.alerts)
    return model_versions.read(config.models, config.workspace)


@dataclass
class _Start:
    """One start of a night.

    Attributes:
        problems: deviations of the golden set, where the night was forced to go on.
    """

    _night: Night
    _config: ScoreConfig
    _executor: ExecutorChoice
    _versions: Mapping[str, str]
    _lease: Lease
    _stack: ExitStack
    problems: list[str] = field(default_factory=list)
    _meter: Meter = field(default_factory=Meter)
    _started_at: str = field(default_factory=now)
    _committer: Committer | None = None
    _connected: Executor | None = None
    _revision: int | None = None

    def store(self) -> None:
        """Adds the start to `night.json`, if it came to a revision."""
        if self._revision is None:
            return
        done = self._committer.done if self._committer else Done()
        nodes = self._committer.nodes if self._committer else ()
        facts = {
            "revision": self._revision,
            "started_at": self._started_at,
            "finished_at": now(),
            "images": done.images,
            "images_per_s": round(done.images / done.seconds, 2) if done.seconds else 0.0,
            "attempts": done.passes,
            "cpus": sum(node.cpus for node in nodes),
            "gpus": sum(node.gpus for node in nodes),
            "executor": self._committer.executor if self._committer else "",
        }
        add_start(self._night, self._config, facts, self._meter.took() + done.took)

    def close_all(self) -> list[Manifest]:
        """Scores and closes the unfinished revisions of the night, then the new images."""
        manifests: list[Manifest] = []
        revisions = self._night.revisions(self._config, self._pin)
        while True:
            with self._meter.time("list"):
                revision = next(revisions, None)
            if revision is None:
                return manifests
            self._revision = revision
            if shards := self._night.todo(revision):
                counts: Counter[str] = Counter()
                for shard in shards:
                    counts[shard.category] += len(shard.rows) if shard.pin else 0
                committer = self._committer_for(counts)
                if self._config.golden.uri:  # else the plan need not be read again
                    self.problems += reference_parts.check(
                        self._config, self._night.pins(revision), self._score_parts
                    )
                committer.commit_all(shards)
            # So a page that exists shows all closed revisions, also after a start that was killed.
            storage.delete(storage.join(self._night.uri, "report.html"))
            with self._meter.time("close"):
                manifests.append(self._night.close(revision))

    def _pin(self, category: str) -> Pin | None:
        # Before the plan is stored: the pool may be refused. A cluster's start is not listing.
        began = time.perf_counter()
        if isinstance(self._executor, Auto):
            scorer_pool(self._executor.nodes, self._config.pool)
        else:
            self._committer_for({})
        self._meter.add("list", began - time.perf_counter())
        return model_versions.pin(self._config.workspace, category, self._versions)

    def _score_parts(
        self, calls: Mapping[str, tuple[Any, ...]]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """The rows of reference parts by category, from workers like those of the night.

        Raises:
            NightError: those of a category cannot be scored.
        """
        assert self._connected
        each = scorer_pool(self._connected.nodes, self._config.pool).each
        rows: dict[str, Sequence[Mapping[str, Any]]] = {}
        with closing(
            self._connected.run_each(
                reference_parts.score_parts, calls, each, max_failures=_MAX_FAILURES
            )
        ) as attempts:
            for attempt in attempts:
                if not attempt.error:
                    rows[attempt.category] = attempt.result
                elif attempt.last:
                    raise NightError(
                        f"the golden set of category {attempt.category} cannot be scored: "
                        f"{attempt.error}"
                    )
        return rows

    def _committer_for(self, num_images: Mapping[str, int]) -> Committer:
        """The committer, made for a run of so many images in each category."""
        before, config = self._committer, self._config
        # A choice is made anew for each revision, until it is Ray: the next one may be long.
        may_change = isinstance(self._executor, Auto) and before and before.executor != "ray"
        if before is None or may_change:

            def seconds() -> float:
                from mrkd.nights.cost_estimate import scoring_seconds  # it loads torch

                return scoring_seconds(config, num_images)

            executor = self._executor.for_work(seconds)
            if before is None or before.executor != executor.name:
                self._stack.enter_context(executor.connected())
                self._connected = executor
                self._committer = executor.committer(self._night, config, self._lease)
                self._committer.done = before.done if before else self._committer.done
        assert self._committer
        return self._committer


def check_roots(workspace: str, root: str) -> None:
    """Refuses URIs that are most likely misspelt.

    Raises:
        ConfigError: `root` does not hold a file, or the workspace does not hold a model.
    """
    if not storage.exists(root):
        raise ConfigError(f"no file exists at or below {root!r}: correct the URI")
    if not storage.list_names(storage.join(workspace, "models")):
        raise ConfigError(
            f"no model exists in workspace {workspace!r}: correct the URI, or train first"
        )


def _report(night: Night, config: ScoreConfig) -> tuple[dict[str, str], int, list[str]]:
    """Writes parts, page and alerts; their URIs, the number of alerts, and the problems.

    Parts and page are written where the page does not exist. The rows are committed by then: a
    problem here is a reason of the summary, and does not fail the night.
    """
    uris: dict[str, str] = {}
    found: list[alerts.Alert] = []
    try:
        if not storage.stat(storage.join(night.uri, "report.html")):
            uris = part_verdicts.store(night.uri, config.parts)
            data = reports.load_night_data(night.uri)
            found = alerts.find(data.compared, data.lights, config.alerts)
            uris["report"] = reports.write_page(night.uri, data)
    except MrkdError as error:
        log.warning("night_not_told run=%s reason=%s", night.run, error)
        reason = f"the rows are stored, their page is not ({error}): mrkd report {night.uri}"
        return uris, 0, [reason]
    try:
        sent, failure = alerts.tell(night.uri, night.run, found, config.alerts)
    except MrkdError as error:
        log.warning("alerts_not_told run=%s reason=%s", night.run, error)
        return uris, 0, [f"the rows and their page are stored, but no alert was sent: {error}"]
    if sent:
        uris["alerts"] = storage.join(night.uri, alerts.RECORD)
    return uris, len(sent), [failure] if failure else []


def _end(
    record: RecordedRun,
    night: Night,
    closed: Sequence[Manifest],
    config: ScoreConfig,
    uris: Mapping[str, str],
    num_alerts: int,
    also: Sequence[str],
) -> Summary:
    """The summary of the revisions that this start has closed."""
    kinds = count_rows(night.uri, closed)
    num_images = kinds.total()
    errors = {kind: n for kind, n in sorted(kinds.items()) if kind not in ("ok", "nok")}
    num_errors = sum(errors.values())
    listed = ", ".join(f"{kind} {n}" for kind, n in errors.items())
    reasons = [f"{num_errors} of {num_images} images have no score: {listed}"] if errors else []
    shut = unopened(night.uri, config.archive.tars) if errors else []
    if shut:
        reasons.append(
            f"{len(shut)} tars could not be opened ({shut[0]} is the first), and their content "
            "is unknown: --retry-errors forbidden,missing,unreachable opens them again"
        )
    if num_mapless := sum(one.num_degraded for one in closed):
        reasons.append(f"{num_mapless} images have no map, as the night was late")
    if closed and (line := passed_over_line(closed[-1].passed_over)):
        reasons.append(line)
    for one in closed:
        at = deadline_of(night, config, one.revision)
        if at and (late := datetime.fromisoformat(one.closed_at) - at) > timedelta(0):
            seconds = timedelta(seconds=round(late.total_seconds()))
            reasons.append(f"revision {one.revision} was closed {seconds} after its deadline")
    return record.end(
        3 if shut or num_errors > config.max_error_share * num_images else 0,
        counts={
            "images": num_images,
            **dict.fromkeys(("ok", "nok"), 0),
            **kinds,
            "alerts": num_alerts,
        },
        uris={
            "scores": storage.join(night.uri, "scores"),
            "manifest": storage.join(night.uri, "_MANIFEST.json"),
            **uris,
        },
        reasons=[*reasons, *also, *some_of(_doubts(night, closed))],
        # A start that found nothing to do leaves the summary of a night that had ended.
        stored=bool(closed) or not record.had_ended,
    )


def _doubts(night: Night, closed: Sequence[Manifest]) -> list[str]:
    """Warnings about the thresholds that decided, a line each."""
    pins = {name: pin for one in closed for name, pin in one.pins.items() if pin}

    def doubt(category: str) -> str:
        pin = pins[category]
        try:
            warning = artefact.read_calibration(
                night.workspace, category, pin.version, pin.calibration
            ).warning
        except (ArtefactError, StorageError) as error:
            warning = str(error)
        return f"category {category}: {warning}" if warning else ""

    return [line for line in in_threads(doubt, sorted(pins)) if line]
