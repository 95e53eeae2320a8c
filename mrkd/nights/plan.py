"""Plans of a night: the images of each revision, and the models pinned for them.

A plan is made from what an archive holds and earlier plans do not, and is stored before anything
is scored. From then on it decides everything: which images form a shard, by which model, under
which name; so that any worker, at any time, comes to the same files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from mrkd.config import ScoreConfig
from mrkd.config.toml import flattened
from mrkd.errors import ArtefactError, ConfigError
from mrkd.model import artefact
from mrkd.nights.archive import UNMATCHED, known_tars, passed_over
from mrkd.nights.shards import Pin, Shard, cuts
from mrkd.storage import schema

Pins = Callable[[str], Pin | None]
"""The model that scores a category from now on; None where it has none."""


@dataclass(frozen=True)
class Plan:
    """What one revision of a night scores.

    Args:
        revision: its number, from 1.
        rows: one for each image (`schema.PLAN`), by category, then URI.
        pins: the model of each category in it.
        config: config of the run, as plain values.
        replaces: URI and revision of rows that no longer count and whose URI has no new row.
        passed_over: numbers of the archive's other files, by suffix, and of its shut folders.
    """

    revision: int
    rows: pa.Table
    pins: Mapping[str, Pin | None]
    config: Mapping[str, Any]
    replaces: tuple[tuple[str, int], ...] = ()
    passed_over: Mapping[str, int] = field(default_factory=dict)

    def shards(self) -> list[Shard]:
        """The shards, in the order of the rows."""
        shards, start = [], 0
        for end in pc.run_end_encode(self.rows["shard"].combine_chunks()).run_ends.to_pylist():
            # Copied, as a slice would take the whole plan along to its worker.
            rows = self.rows.slice(start, end - start).take(pa.array(range(end - start)))
            category = rows["category"][0].as_py()
            name = rows["shard"][0].as_py()
            shards.append(Shard(name, category, self.revision, self.pins[category], rows))
            start = end
        return shards

    def check_config(self, config: ScoreConfig) -> None:
        """Does nothing if `config` would give the rows that this plan's own gives.

        Raises:
            ConfigError: a key that decides rows has another value.
        """
        now = _deciding(config.to_dict())
        for key, planned in _deciding(self.config).items():
            # A key that only one of the two knows came or went with another version of mrkd.
            if key in now and now[key] != planned:
                raise ConfigError(
                    f"run {config.run!r} was planned with {key} = {planned!r}, now it is "
                    f"{now[key]!r}: go on with the old value, or take another run name"
                )

    def to_parquet(self) -> bytes:
        """The plan as a file; `from_parquet` of it is equal."""
        pins = {category: pin and asdict(pin) for category, pin in self.pins.items()}
        facts = {
            "revision": str(self.revision),
            "pins": json.dumps(pins),
            "config": json.dumps(self.config),
            "replaces": json.dumps(self.replaces),
            "passed_over": json.dumps(self.passed_over),
            "config_sha256": _digest(self.config),
            "planned_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        return schema.to_parquet(
            self.rows.replace_schema_metadata({**schema.PLAN.metadata, **facts})
        )

    @classmethod
    def from_parquet(cls, data: bytes, *, name: str) -> Self:
        """The plan in the bytes of a file; `name` is its name in errors.

        Raises:
            ArtefactError: it is damaged, or no plan.
        """
        table = schema.from_parquet(data, name=name)
        facts = table.schema.metadata or {}
        try:
            pins = json.loads(facts[b"pins"]).items()
            return cls(
                revision=int(facts[b"revision"]),
                rows=table,
                pins={category: Pin(**pin) if pin else None for category, pin in pins},
                config=json.loads(facts[b"config"]),
                replaces=tuple((uri, n) for uri, n in json.loads(facts[b"replaces"])),
                passed_over=json.loads(facts.get(b"passed_over", b"{}")),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArtefactError(
                f"{name} is not a plan of this version ({error!r}): score in a new run"
            ) from error


def draft(
    images: pa.Table,
    earlier: Sequence[Plan],
    config: ScoreConfig,
    pins: Pins,
    *,
    again: Sequence[tuple[int, str]] = (),
) -> Plan | None:
    """The plan of the images that are new or overwritten since the earlier plans.

    Args:
        images: rows of the archive as it is now (`archive.IMAGES`), by category, then URI.
        earlier: all plans of the night, the newest last.
        config: config of the run.
        pins: asked once for each category.
        again: revision and URI of rows to be scored once more, as the archive now holds them, or,
            where it says nothing of them, as they were planned.

    Returns:
        None where nothing is new.

    Raises:
        ArtefactError: the card of a model is damaged.
        ConfigError: the newest plan was made with another config (`Plan.check_config`), or a model
            was calibrated in another precision than the config asks for.
    """
    if earlier:
        earlier[-1].check_config(config)
    rows, replaces = _with_rows_again(images, earlier, again, config.archive.tars)
    if not rows.num_rows:
        return None
    revision = earlier[-1].revision + 1 if earlier else 1
    names = pc.unique(rows["category"]).to_pylist()
    pinned = {name: None if name == UNMATCHED else pins(name) for name in names}
    if config.pool.precision != "auto":
        for name, pin in pinned.items():
            if pin is not None:
                card = artefact.read_card(config.workspace, name, pin.version)
                card.check_precision(config.pool.precision)
    settings = config.to_dict()
    deciding = _digest(_deciding(settings))
    shards: list[str] = []
    for start, end in cuts(rows, config.rows, pinned, batch_size=config.pool.batch_size):
        part = rows.slice(start, end - start).to_pylist()
        pin = pinned[part[0]["category"]]
        name = _digest([revision, pin and asdict(pin), deciding, part])[:32]
        shards += [name] * len(part)
    rows = rows.append_column("revision", pa.repeat(pa.scalar(revision, pa.int32()), len(rows)))
    rows = rows.append_column("shard", pa.array(shards, pa.string()))
    rows = rows.select(schema.PLAN.names).cast(schema.PLAN)
    return Plan(revision, rows, pinned, settings, replaces, passed_over(images))


def _fresh(images: pa.Table, earlier: Sequence[Plan]) -> pa.Table:
    """The images whose ETag is not the one last planned for their URI; adds `supersedes`."""
    columns = ["image_uri", "image_etag", "revision"]
    held = pa.concat_tables(
        [plan.rows.select(columns) for plan in reversed(earlier)]
        or [schema.PLAN.empty_table().select(columns)]
    )
    # The first position, so that of the newest plan: an image that was overwritten and then
    # restored is new again, as the row that counts is that of its other content.
    last = pc.index_in(images["image_uri"], value_set=held["image_uri"])
    # A manifest may name no ETag; what it names once is not new the next time.
    now, then = (pc.fill_null(one["image_etag"], "") for one in (images, held))
    changed = pc.not_equal(now, then.take(last))
    images = images.append_column("supersedes", held["revision"].take(last))
    return images.filter(pc.fill_null(changed, True))


def _with_rows_again(
    images: pa.Table, earlier: Sequence[Plan], again: Sequence[tuple[int, str]], tars: Sequence[str]
) -> tuple[pa.Table, tuple[tuple[str, int], ...]]:
    """The fresh rows and those wanted once more; and what has no successor of its own name.

    The latter are tars that could not be read and now can: their members follow them.
    """
    fresh = _fresh(images, earlier)
    if not again:
        return fresh, ()
    wanted = {uri: revision for revision, uri in again}
    for uri in set(fresh["image_uri"].to_pylist()) & wanted.keys():
        del wanted[uri]
    listed = _among(images, wanted)
    absent = wanted.keys() - set(listed["image_uri"].to_pylist())
    opened = absent & known_tars(images, tars).keys()
    planned = [
        _among(plan.rows, [uri for uri in absent - opened if wanted[uri] == plan.revision])
        for plan in earlier
    ]
    parts = [fresh]
    for table in (listed, *planned):
        replaced = [wanted[uri] for uri in table["image_uri"].to_pylist()]
        table = table.select(images.column_names)
        table = table.append_column("supersedes", pa.array(replaced, pa.int32()))
        parts.append(table.cast(fresh.schema))
    rows = pa.concat_tables(parts).sort_by([("category", "ascending"), ("image_uri", "ascending")])
    return rows, tuple(sorted((uri, wanted[uri]) for uri in opened))


def _among(rows: pa.Table, uris: Iterable[str]) -> pa.Table:
    return rows.filter(pc.is_in(rows["image_uri"], pa.array(sorted(uris), pa.string())))


def _deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, by dotted name, that decide which rows there are and what is in them."""
    pool = {key: config["pool"][key] for key in ("batch_size", "precision")}
    sections = {"archive": config["archive"], "rows": config["rows"], "pool": pool}
    return {"models": config.get("models", "")} | flattened(sections)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
