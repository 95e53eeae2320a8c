"""A night: one run over an archive, whose images each become exactly one stored row.

    lease.json                               who works on it
    plans/plan-<r>.parquet                   what revision r scores and by which models; put first
    scores/category=<c>/shard-<id>.parquet   one shard's rows; the file itself is the commit
    manifests/manifest-<r>.json              all rows of revision r are there; put last
    _MANIFEST.json                           copy of the newest manifest

Nothing else is remembered: a start lists what is stored and goes on. Plans, shards and manifests
are put whole, on the condition that they are not there yet, and never changed, so that a run that
dies, or two that meet, cost time and no row:

    night = Night(config.workspace, config.run)
    with night.lease() as lease:
        for revision in night.revisions(config, pins):
            for shard in night.todo(revision):
                night.commit(shard, score(shard))
            night.close(revision)
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mrkd import storage
from mrkd.config import ScoreConfig, check_name
from mrkd.errors import ArtefactError, ConfigError, NightError
from mrkd.nights import archive
from mrkd.nights import plan as plans
from mrkd.nights.manifest import (
    Manifest,
    Stored,
    Superseded,
    failed,
    kinds_of,
    passed_over_line,
    read_manifests,
    revisions_in,
)
from mrkd.nights.plan import Pins, Plan
from mrkd.nights.shards import Pin, Shard
from mrkd.storage import schema
from mrkd.storage.lease import Lease
from mrkd.storage.thread_map import in_threads

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Commit:
    """What became of a shard's rows.

    Args:
        status: `written` (or these very bytes were there); `already`: equal rows were there;
            `conflict`: other rows were, made by another kind of device, say, and they stay.
        counts: number of the rows there now that are `ok`, `nok` and of each error kind.
    """

    status: Literal["written", "already", "conflict"]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Night:
    """The night `run` of a workspace; it holds no state and travels to workers as it is.

    Raises:
        ConfigError: the run's name is none.
    """

    workspace: str
    run: str

    def __post_init__(self) -> None:
        check_name("run", self.run)

    @property
    def uri(self) -> str:
        """The night's folder."""
        return storage.join(self.workspace, "nights", self.run)

    def lease(self) -> Lease:
        """To be held, by `with`, by the one who plans and closes."""
        return Lease(storage.join(self.uri, "lease.json"))

    def revisions(self, config: ScoreConfig, pins: Pins) -> Iterator[int]:
        """What is to be scored now: a stored plan that is not closed, then a new one, if any.

        The caller scores and closes each before it asks for the next. `pins` is asked for the
        model of each category that has new images.

        Raises:
            ConfigError: the run was planned with another config, or there is nothing to plan from.
            NightError: a revision was not closed.
        """
        if numbers := self._numbers("plans"):
            self._plan(numbers[-1]).check_config(config)
            for number in sorted(set(numbers) - set(self._numbers("manifests"))):
                yield number
                self.close(number)
            self.close(numbers[-1])  # mends a copy that a dying run left behind
        plan = self.draft(config, pins)
        if plan is not None:
            uri = storage.join(self.uri, "plans", f"plan-{plan.revision}.parquet")
            if not storage.write(uri, plan.to_parquet(), if_absent=True):
                log.warning("plan_stands uri=%s", uri)  # another start's, which scores the same way
            yield plan.revision

    def draft(self, config: ScoreConfig, pins: Pins) -> Plan | None:
        """The next plan, not stored; None where the archive holds nothing new.

        Raises:
            ConfigError: the archive holds no image at all, or `Plan.check_config`.
        """
        earlier = [self._plan(number) for number in self._numbers("plans")]
        held = pa.concat_tables([plan.rows for plan in earlier] or [schema.PLAN.empty_table()])
        again = failed(self.uri, config.retry_errors) if earlier and config.retry_errors else []
        known = archive.known_tars(held, config.archive.tars)
        for _, uri in again:
            known.pop(uri, None)  # a tar that could not be read is opened again
        images = archive.list_images(config.archive, known)
        if not earlier and not images.num_rows:
            place = config.archive.manifest or config.archive.uri
            endings = ", ".join((*config.archive.suffixes, *config.archive.tars))
            passed = passed_over_line(archive.passed_over(images))
            there = f"{passed}: convert or unpack them, or" if passed else "it is empty:"
            raise ConfigError(
                f"the archive is {place!r}: it names no file that ends in {endings}; {there} "
                "correct archive.uri"
            )
        return plans.draft(images, earlier, config, pins, again=again)

    def todo(self, revision: int) -> list[Shard]:
        """The shards of a stored plan that are not committed, in the plan's order."""
        stored = self._files()
        return [shard for shard in self._plan(revision).shards() if shard.file not in stored]

    def pins(self, revision: int) -> Mapping[str, Pin | None]:
        """The model of each category of a stored plan."""
        return self._plan(revision).pins

    def planned_at(self, revision: int) -> datetime:
        """When a stored plan was made, UTC; reads its footer alone.

        Raises:
            ArtefactError: it is damaged.
        """
        uri = storage.join(self.uri, "plans", f"plan-{revision}.parquet")
        filesystem, path = storage.open_uri(uri)
        try:
            footer = pq.read_metadata(path, filesystem=filesystem)
            return datetime.fromisoformat(footer.metadata[b"planned_at"].decode())
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise ArtefactError(
                f"{uri} cannot be read as a plan ({error!r}): if its folder can be reached, score "
                "in a new run"
            ) from error

    def commit(self, shard: Shard, table: pa.Table) -> Commit:
        """Stores a shard's rows, all at once, unless rows of it are stored already.

        The table is of `schema.SCORES`, a row for each of the shard's images, in its order.

        Raises:
            ValueError: the rows are not those of the shard.
            StorageError: they could not be stored; the shard is as it was.
        """
        _check_rows(shard, table)
        counts = dict(sorted(kinds_of(table).items()))
        facts = {
            "shard": shard.id,
            "counts": json.dumps(counts),
            "content_sha256": content_sha256(table),
        }
        metadata = {**(table.schema.metadata or {}), **{k.encode(): v for k, v in facts.items()}}
        data = schema.to_parquet(table.replace_schema_metadata(metadata))
        uri = storage.join(self.uri, "scores", shard.file)
        if storage.write(uri, data, if_absent=True):
            return Commit("written", counts)
        stands = self._stored(shard)
        if stands.content_sha256 == facts["content_sha256"]:
            return Commit("already", stands.counts)
        log.warning("commit_conflict shard=%s stands=%s", uri, stands.content_sha256)
        return Commit("conflict", stands.counts)

    def counts(self, shard: Shard) -> Mapping[str, int]:
        """Of a committed shard's rows: `ok`, `nok` and each error kind."""
        return self._stored(shard).counts

    def close(self, revision: int) -> Manifest:
        """Checks that every planned image has its one row, then puts the manifest.

        A closed revision is not checked again; its manifest remains.

        Raises:
            NightError: shards are missing or damaged, or there are rows that no plan knows.
        """
        uri = storage.join(self.uri, "manifests", f"manifest-{revision}.json")
        if revision not in self._numbers("manifests"):
            storage.write_json(uri, asdict(self._checked(self._plan(revision))), if_absent=True)
        manifest = Manifest.read(uri)
        if revision == self._numbers("manifests")[-1]:
            storage.write_json(storage.join(self.uri, "_MANIFEST.json"), asdict(manifest))
        log.info("closed run=%s revision=%d rows=%d", self.run, revision, manifest.rows)
        return manifest

    def _checked(self, plan: Plan) -> Manifest:
        """The manifest of a revision, all of whose rows were seen to be there, once."""
        shards = plan.shards()
        self._check_files(plan.revision, {shard.file for shard in shards})
        stored = tuple(in_threads(self._stored, shards))
        for shard, stands in zip(shards, stored, strict=True):
            if stands.rows != shard.rows.num_rows:
                raise NightError(
                    f"{self.uri}/scores/{shard.file} has {stands.rows} rows for "
                    f"{shard.rows.num_rows} images: delete it and start the run again"
                )
        replaced = plan.rows.filter(pc.is_valid(plan.rows["supersedes"]))
        rows = [replaced["image_uri"].to_pylist(), replaced["supersedes"].to_pylist()]
        return Manifest(
            run=self.run,
            revision=plan.revision,
            rows=plan.rows.num_rows,
            counts=dict(sorted(sum((Counter(s.counts) for s in stored), Counter()).items())),
            shards=stored,
            pins=plan.pins,
            superseded=tuple(
                Superseded(*row) for row in [*zip(*rows, strict=True), *plan.replaces]
            ),
            config=plan.config,
            closed_at=datetime.now(UTC).isoformat(timespec="seconds"),
            passed_over=plan.passed_over,
        )

    def _check_files(self, revision: int, mine: set[str]) -> None:
        """Every file of the revision and of closed ones is there, and none that no plan knows."""
        closed = {manifest.revision: manifest for manifest in read_manifests(self.uri)}
        if not closed.keys() >= set(range(1, revision)):
            raise NightError(f"{self.uri}: close the revisions before {revision} first")
        known = mine | {stored.file for manifest in closed.values() for stored in manifest.shards}
        files = self._files()
        if missing := sorted(known - files):
            raise NightError(
                f"{self.uri}/scores lacks {len(missing)} of {len(known)} shards, the first "
                f"{missing[0]}: start the run again"
            )
        for other in set(self._numbers("plans")) - closed.keys() - {revision}:
            known |= {shard.file for shard in self._plan(other).shards()}
        if stray := sorted(files - known):
            raise NightError(
                f"{self.uri}/scores holds files of no plan, {len(stray)}, the first {stray[0]}: "
                "a plain reader would count their rows, so move them away"
            )

    def _stored(self, shard: Shard) -> Stored:
        """The stored rows of a shard, by their file's footer."""
        filesystem, folder = storage.open_uri(storage.join(self.uri, "scores"))
        try:
            footer = pq.read_metadata(f"{folder}/{shard.file}", filesystem=filesystem)
            counts = json.loads(footer.metadata[b"counts"])
            content_sha256 = footer.metadata[b"content_sha256"].decode()
        except (OSError, pa.ArrowException, KeyError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise NightError(
                f"{self.uri}/scores/{shard.file} cannot be read as a shard ({reason}): if its "
                "folder can be reached, delete the file and start the run again"
            ) from error
        uris = shard.rows["image_uri"]
        return Stored(
            file=shard.file,
            category=shard.category,
            rows=footer.num_rows,
            first_uri=uris[0].as_py(),
            last_uri=uris[-1].as_py(),
            counts=counts,
            content_sha256=content_sha256,
            degraded=footer.metadata.get(b"degraded", b"").decode(),
        )

    def _files(self) -> set[str]:
        """Names of the files below `scores`, but for those that no reader of Parquet looks at."""
        folder = storage.join(self.uri, "scores")
        names = (file.uri.removeprefix(f"{folder}/") for file in storage.list_files(folder))
        return {name for name in names if not name.rpartition("/")[2].startswith((".", "_"))}

    def _plan(self, revision: int) -> Plan:
        uri = storage.join(self.uri, "plans", f"plan-{revision}.parquet")
        return Plan.from_parquet(storage.read(uri), name=uri)

    def _numbers(self, folder: str) -> list[int]:
        return revisions_in(storage.join(self.uri, folder))


def _check_rows(shard: Shard, table: pa.Table) -> None:
    if not table.schema.equals(schema.SCORES):
        raise ValueError(f"shard {shard.id}: its columns are not schema.SCORES: {table.schema}")
    planned = shard.rows
    if table.num_rows != planned.num_rows:
        raise ValueError(f"shard {shard.id}: {table.num_rows} rows for {planned.num_rows} images")
    for column in ("image_uri", "revision"):
        if not table[column].equals(planned[column]):
            raise ValueError(f"shard {shard.id}: {column} is not the plan's, row by row")


def content_sha256(table: pa.Table) -> str:
    """Digest of the values alone, whatever chunks and buffers hold them."""
    digest = hashlib.sha256()
    for name in table.column_names:
        for value in table[name].to_pylist():
            data = value if isinstance(value, bytes) else repr(value).encode()
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
