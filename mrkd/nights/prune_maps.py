"""Old nights without their maps: scores, regions, thresholds and models' names stay for good.

    scores/category=<c>/shard-<id>.parquet   the same rows under the same name, their maps null
    prunings/<n>.json                        who did that, when, and what it freed; put last

A shard is rewritten on the condition that it is the one that was read. Its metadata then holds
`pruned_at` and, as `content_sha256_scored`, the digest by which the night's manifest knows it.
Plans, manifests and pages stay as they are, and models are not touched.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from mrkd import storage
from mrkd.errors import ArtefactError, NightError
from mrkd.nights.manifest import Manifest, read_manifests
from mrkd.nights.night import Night, content_sha256
from mrkd.run_summary import now
from mrkd.storage import schema
from mrkd.storage.thread_map import in_threads

log = logging.getLogger(__name__)

PRUNING_VERSION = 1
_TRIES = 3


@dataclass(frozen=True)
class Pruning:
    """What happened to the maps of one night, or would.

    Args:
        run: name of the night.
        closed_at: time when its newest revision was closed.
        revisions: number of its revisions then; later ones are not pruned by this.
        shards: files that held maps.
        bytes_before: size of these files.
        bytes_after: their size without the maps; 0 while nothing is done.
        by: person who prunes it; empty while nothing is done.
        at: time of the pruning, UTC, ISO 8601.
        older_than: the span that was asked for.
        version: version of this layout.
    """

    run: str
    closed_at: str
    revisions: int
    shards: int
    bytes_before: int
    bytes_after: int = 0
    by: str = ""
    at: str = ""
    older_than: str = ""
    version: int = PRUNING_VERSION


def due(workspace: str, age: timedelta, *, at: datetime | None = None) -> list[Pruning]:
    """The nights whose maps are older than this and still there, the oldest first.

    A night's age is that of its newest closed revision. Sizes are from listings: which shards of a
    night that was half pruned still hold maps, only pruning tells. The age is taken `at` a time;
    None: now.

    Raises:
        ArtefactError: a manifest, or a record of a pruning, is damaged.
        StorageError: the workspace cannot be read.
    """
    limit = (at or datetime.now(UTC)) - age
    found = []
    for run in storage.list_names(storage.join(workspace, "nights")):
        uri = storage.join(workspace, "nights", run)
        manifests = read_manifests(uri)
        if not manifests or datetime.fromisoformat(manifests[-1].closed_at) >= limit:
            continue
        names = _names(manifests, _records(uri))
        if not names:
            continue
        folder = storage.join(uri, "scores")
        files = storage.list_files(folder)
        sizes = {file.uri.removeprefix(f"{folder}/"): file.num_bytes for file in files}
        num_bytes = sum(sizes.get(name, 0) for name in names)
        found.append(Pruning(run, manifests[-1].closed_at, len(manifests), len(names), num_bytes))
    return sorted(found, key=lambda one: (one.closed_at, one.run))


def prune(workspace: str, one: Pruning, *, by: str, older_than: str) -> Pruning:
    """Takes the maps out of a night from `due`; ended in between, the next call goes on.

    Returns:
        What was done, as it is stored: of shards that held maps.

    Raises:
        NightError: another run holds the night, a shard is gone, or somebody else writes to it.
        ArtefactError: a shard is damaged.
        StorageError: the workspace cannot be read or written.
    """
    night = Night(workspace, one.run)
    with night.lease() as lease:
        records = _records(night.uri)
        manifests = read_manifests(night.uri)[: one.revisions]

        def take(name: str) -> tuple[int, int]:
            lease.check()
            return _without_maps(storage.join(night.uri, "scores", name))

        sizes = list(in_threads(take, _names(manifests, records)))
        done = replace(
            one,
            shards=sum(before > 0 for before, _ in sizes),
            bytes_before=sum(before for before, _ in sizes),
            bytes_after=sum(after for _, after in sizes),
            by=by,
            at=now(),
            older_than=older_than,
        )
        number = len(records) + 1
        place = storage.join(night.uri, "prunings", f"{number}.json")
        if not storage.write_json(place, asdict(done), if_absent=True):
            raise NightError(f"{place} was written by another run meanwhile: start again")
    log.warning(
        "maps_deleted run=%s shards=%d bytes_before=%d bytes_after=%d by=%s",
        *(done.run, done.shards, done.bytes_before, done.bytes_after, by),
    )
    return done


def _records(night_uri: str) -> list[Pruning]:
    """What was pruned of a night so far."""
    folder = storage.join(night_uri, "prunings")
    found = []
    for number in storage.list_numbers(folder):
        uri = storage.join(folder, f"{number}.json")
        try:
            found.append(Pruning(**storage.read_json(uri)))
        except TypeError as error:
            raise ArtefactError(
                f"{uri} is not a pruning's record: delete it, and the night is looked through again"
            ) from error
    return found


def _names(manifests: Sequence[Manifest], records: Sequence[Pruning]) -> list[str]:
    """The shards of the revisions that no pruning has looked through."""
    past = max((record.revisions for record in records), default=0)
    return [stored.file for one in manifests[past:] for stored in one.shards]


def _without_maps(uri: str) -> tuple[int, int]:
    """Size of a shard before and after its maps went; nothing where it had none."""
    for _ in range(_TRIES):
        found = storage.fetch(uri)
        table = schema.from_parquet(found.data, name=uri)
        if table["anomaly_map"].null_count == table.num_rows:
            return 0, 0
        data = schema.to_parquet(_pruned(table))
        if storage.write(uri, data, if_match=found.etag):
            return len(found.data), len(data)
    raise NightError(f"{uri} changed each time it was to be rewritten: who else writes there?")


def _pruned(table: pa.Table) -> pa.Table:
    facts = dict(table.schema.metadata or {})
    for name in schema.MAP_COLUMNS:
        place = table.column_names.index(name)
        field = table.schema.field(place)
        table = table.set_column(place, field, pa.nulls(table.num_rows, field.type))
    facts[b"content_sha256_scored"] = facts.get(b"content_sha256", b"")
    facts[b"content_sha256"] = content_sha256(table).encode()
    facts[b"pruned_at"] = now().encode()
    return table.replace_schema_metadata(facts)
