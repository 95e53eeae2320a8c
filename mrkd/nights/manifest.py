"""Manifests of a night's closed revisions, and the reader of their rows.

Not every file below `scores` counts: an open revision's may still be added to, and a row whose
image was overwritten has a successor. `open_night` gives the rows that count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc

from mrkd import storage
from mrkd.config.toml import nearest
from mrkd.errors import ArtefactError, NightError, StorageError
from mrkd.nights.shards import Pin
from mrkd.storage import schema

if TYPE_CHECKING:
    import pyarrow.dataset as ds

DECISION = (
    *("image_uri", "image_score", "threshold", "is_anomalous", "error_kind"),
    *("model_version", "calibration"),
)
"""Columns of `schema.SCORES` with an image's decision and the model that made it."""
_DECIDED = ("error_kind", "is_anomalous")
_OUT_OF_REACH = ("forbidden", "missing", "unreachable")


@dataclass(frozen=True)
class Stored:
    """A committed shard as a manifest names it.

    Args:
        file: path below the night's `scores`.
        category: category of its images.
        rows: number of its rows.
        first_uri: URI of its first row; rows are sorted.
        last_uri: URI of its last row.
        counts: `ok`, `nok` and each error kind.
        content_sha256: digest of the rows alone.
        degraded: `scores_only` where maps were left out as the night was late; else empty.
    """

    file: str
    category: str
    rows: int
    first_uri: str
    last_uri: str
    counts: Mapping[str, int]
    content_sha256: str
    degraded: str = ""


@dataclass(frozen=True)
class Superseded:
    """A row that no longer counts, as its image was overwritten and scored again."""

    image_uri: str
    revision: int


@dataclass(frozen=True)
class Manifest:
    """A closed revision: what it added to the night.

    Args:
        run: name of the night.
        revision: its number.
        rows: one for each of its images.
        counts: number of its images that are `ok`, `nok` and of each error kind.
        shards: the files that hold the rows.
        pins: the model of each category.
        superseded: the rows of earlier revisions that its rows replace.
        config: config of the run, as plain values.
        closed_at: UTC, ISO 8601.
        passed_over: numbers of the archive's files that are neither images nor tars, by suffix, and
            of the folders that could not be looked into.
        schema_version: version of the rows' schema.
    """

    run: str
    revision: int
    rows: int
    counts: Mapping[str, int]
    shards: tuple[Stored, ...]
    pins: Mapping[str, Pin | None]
    superseded: tuple[Superseded, ...]
    config: Mapping[str, Any]
    closed_at: str
    passed_over: Mapping[str, int] = field(default_factory=dict)
    schema_version: int = schema.SCHEMA_VERSION

    @property
    def error_share(self) -> float:
        """Share of the images that have an error instead of a score."""
        return 1 - (self.counts.get("ok", 0) + self.counts.get("nok", 0)) / self.rows

    @property
    def num_degraded(self) -> int:
        """Images that were scored without a map, as the night was late."""
        shards = [shard for shard in self.shards if shard.degraded]
        return sum(shard.counts.get(kind, 0) for shard in shards for kind in ("ok", "nok"))

    @property
    def tars(self) -> tuple[str, ...]:
        """Suffixes of the archive's tars."""
        return tuple(self.config.get("archive", {}).get("tars", ()))

    @classmethod
    def read(cls, uri: str) -> Self:
        """The manifest in a file.

        Raises:
            StorageError: it cannot be read.
            ArtefactError: it is not a manifest.
        """
        content = storage.read_json(uri)
        try:
            shards = tuple(Stored(**shard) for shard in content["shards"])
            pins = {name: Pin(**pin) if pin else None for name, pin in content["pins"].items()}
            superseded = tuple(Superseded(**row) for row in content["superseded"])
            return cls(**{**content, "shards": shards, "pins": pins, "superseded": superseded})
        except (AttributeError, KeyError, TypeError) as error:
            raise ArtefactError(
                f"{uri} is not a manifest of this version ({error}): delete it, and a start of "
                "its run checks the rows and writes it again"
            ) from error


def open_night(uri: str) -> ds.Dataset:
    """The rows of a night that count: of closed revisions, without the superseded ones.

    Args:
        uri: URI of the night's folder, `<workspace>/nights/<run>`.

    Returns:
        The columns of `schema.SCORES` and, as a string, `category`; read when it is scanned.

    Raises:
        NightError: no revision is closed, or one before the last is not.
    """
    manifests = read_manifests(uri)
    if not manifests:
        raise NightError(f"{uri} has no closed revision: name a night's folder, or finish its run")
    if [manifest.revision for manifest in manifests] != list(range(1, len(manifests) + 1)):
        raise NightError(
            f"{uri} lacks a manifest: start its run again, which writes what is missing"
        )
    import pyarrow.dataset as ds  # not above: it loads pandas, which who reads manifests need not

    filesystem, folder = storage.open_uri(storage.join(uri, "scores"))
    # By an explicit schema, as a reader of 0012 would guess a number.
    category = pa.schema([pa.field("category", pa.string())])
    rows = ds.dataset(
        [f"{folder}/{stored.file}" for manifest in manifests for stored in manifest.shards],
        schema=pa.unify_schemas([schema.SCORES, category]),
        format="parquet",
        filesystem=filesystem,
        partitioning=ds.partitioning(category, flavor="hive"),
        partition_base_dir=folder,
    )
    replaced: dict[int, list[str]] = {}
    for row in (row for manifest in manifests for row in manifest.superseded):
        replaced.setdefault(row.revision, []).append(row.image_uri)
    for revision, uris in replaced.items():
        among = pc.field("image_uri").isin(pa.array(uris, pa.string()))
        rows = rows.filter(~((pc.field("revision") == revision) & among))
    return rows


def categories_of(manifests: Iterable[Manifest]) -> list[str]:
    """The categories that have a shard in these manifests, sorted."""
    return sorted({stored.category for manifest in manifests for stored in manifest.shards})


def category_rows(uri: str, category: str, columns: Sequence[str]) -> pa.Table:
    """Some columns of a closed night's rows of one category.

    Raises:
        NightError: as `open_night`, or the night holds no such category.
        StorageError: the rows cannot be read.
    """
    rows, known = open_night(uri), categories_of(read_manifests(uri))
    if category not in known:
        raise NightError(f"{uri} holds no category {category!r}{nearest(category, known)}")
    with readable(uri):
        return rows.to_table(columns=list(columns), filter=pc.field("category") == category)


@contextmanager
def readable(night_uri: str) -> Iterator[None]:
    """A block in which pyarrow reads rows of a night.

    Raises:
        StorageError: it cannot: a shard is gone, damaged or out of reach.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise StorageError(
            f"the rows of {night_uri} cannot be read ({reason}): if its folder can be reached, a "
            "shard is gone or damaged"
        ) from error


def count_rows(uri: str, closed: Sequence[Manifest]) -> Counter[str]:
    """How many rows of these revisions are `ok`, `nok` and of each error kind.

    A row that a later one of them supersedes is left out: its image is counted by the later one.

    Raises:
        NightError: as `open_night`, where rows are superseded.
        StorageError: they cannot be read.
    """
    revisions = {manifest.revision for manifest in closed}
    replaced = (row.revision for manifest in closed for row in manifest.superseded)
    if revisions.isdisjoint(replaced):
        return sum((Counter(manifest.counts) for manifest in closed), Counter[str]())
    theirs = pc.field("revision").isin(pa.array(sorted(revisions), pa.int32()))
    with readable(uri):
        return kinds_of(open_night(uri).to_table(columns=list(_DECIDED), filter=theirs))


def failed(uri: str, kinds: Sequence[str]) -> list[tuple[int, str]]:
    """Revision and URI of a night's rows that count and have an error of these kinds.

    Raises:
        NightError: as `open_night`.
        StorageError: they cannot be read.
    """
    wanted = pc.field("error_kind").cast(pa.string()).isin(list(kinds))
    with readable(uri):
        rows = open_night(uri).filter(wanted).to_table(columns=["revision", "image_uri"])
    return list(zip(rows["revision"].to_pylist(), rows["image_uri"].to_pylist(), strict=True))


def passed_over_line(counts: Mapping[str, int]) -> str:
    """What a listing passed over, in one line; empty where it took everything."""
    folders = {key: number for key, number in counts.items() if key.startswith(storage.FOLDER)}
    files = {key: number for key, number in counts.items() if key not in folders}
    lines = []
    if files:
        listed = ", ".join(f"{suffix} {number:,}" for suffix, number in files.items())
        lines.append(
            f"{sum(files.values()):,} files were passed over, as their names end in none of "
            f"archive.suffixes and archive.tars: {listed}"
        )
    if folders:
        reasons = "; ".join(key.removeprefix(storage.FOLDER) for key in folders)
        lines.append(f"{sum(folders.values()):,} folders were not looked into: {reasons}")
    return "; ".join(lines)


def unopened(uri: str, tars: Sequence[str]) -> list[str]:
    """A night's tars that could not be opened: each is one row, and what it holds is unknown.

    Raises:
        NightError: as `open_night`.
        StorageError: the rows cannot be read.
    """
    endings = tuple(suffix.lower() for suffix in tars)
    return [name for _, name in failed(uri, _OUT_OF_REACH) if name.lower().endswith(endings)]


def call_of(row: Mapping[str, Any]) -> Literal["OK", "NOK", "ERROR"]:
    """What a night says of an image, by a row with the columns of `SCORES`."""
    if row["error_kind"] is not None:
        return "ERROR"
    return "NOK" if row["is_anomalous"] else "OK"


def kinds_of(table: pa.Table) -> Counter[str]:
    """How many rows of a table with the columns of `SCORES` are `ok`, `nok`, of each error kind."""
    columns = (table[name].to_pylist() for name in _DECIDED)
    return Counter(kind or ("nok" if nok else "ok") for kind, nok in zip(*columns, strict=True))


def read_manifests(uri: str) -> list[Manifest]:
    """The manifests of a night's folder, by revision; errors as `Manifest.read`."""
    folder = storage.join(uri, "manifests")
    names = [f"manifest-{number}.json" for number in revisions_in(folder)]
    return [Manifest.read(storage.join(folder, name)) for name in names]


def revisions_in(folder: str) -> list[int]:
    """The revisions that a folder of `<kind>-<r>.<suffix>` has a file of, rising."""
    names = [file.uri.rpartition("/")[2] for file in storage.list_files(folder)]
    matches = [re.fullmatch(r"(?:plan|manifest)-(\d+)\.(?:parquet|json)", name) for name in names]
    return sorted(int(match[1]) for match in matches if match)
