"""The profile of a night: counts and quantiles of each category and line, one small file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from mrkd import storage
from mrkd.data.images import STATISTICS
from mrkd.errors import ArtefactError
from mrkd.storage import schema

PROFILE_VERSION = 1
FILE = "profile.parquet"
SHARES = np.linspace(0, 1, 21)
"""At which quantiles are taken: 0, 5, ... 100 %."""
QUANTITIES = ("image_score", *STATISTICS)
MAX_SIZES = 1000
"""Image sizes that are kept of a group, the most frequent ones."""

_COUNTS = pa.map_(pa.string(), pa.int64())
PROFILE = pa.schema(
    [
        pa.field("category", pa.string(), nullable=False),
        pa.field("line", pa.string(), nullable=False),
        pa.field("num_images", pa.int64(), nullable=False),
        pa.field("num_ok", pa.int64(), nullable=False),
        pa.field("num_nok", pa.int64(), nullable=False),
        pa.field("errors", _COUNTS, nullable=False),
        *(pa.field(name, pa.list_(pa.float32()), nullable=False) for name in QUANTITIES),
        pa.field("sizes", _COUNTS, nullable=False),
        pa.field("model_version", pa.string()),
        pa.field("calibration", pa.int32()),
    ],
    metadata={"schema": "mrkd.profile", "schema_version": str(PROFILE_VERSION)},
)
"""Rows of `profile.parquet`, by category, then line; what is of the whole night is metadata."""


@dataclass(frozen=True)
class ProfileGroup:
    """The images of one category that came from one line.

    Args:
        category: category of the images.
        line: their attribute `line`; empty where the archive's template names none.
        num_images: all of them.
        num_ok: called good.
        num_nok: called defective.
        errors: number of images without a score, by kind of error.
        quantiles: float32 `[21]` at `SHARES`, of `image_score` of OK images and of `brightness`,
            `contrast`, `sharpness` of all scored ones; none of what no image has.
        sizes: number of scored images by size in original pixels, "HxW".
        model_version: version that scored them, in the newest revision; empty: none.
        calibration: number of its calibration; 0: none.
    """

    category: str
    line: str
    num_images: int
    num_ok: int = 0
    num_nok: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    quantiles: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    model_version: str = ""
    calibration: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """Category and line."""
        return self.category, self.line

    @property
    def model(self) -> tuple[str, int]:
        """Version and calibration: scores and decisions of others are of another scale."""
        return self.model_version, self.calibration

    @property
    def num_scored(self) -> int:
        """Those that are decided."""
        return self.num_ok + self.num_nok

    @property
    def nok_rate(self) -> float | None:
        """Share of the decided images that are called defective; None where none is decided."""
        return self.num_nok / self.num_scored if self.num_scored else None

    @property
    def error_rate(self) -> float:
        """Share of the images without a score."""
        return 1 - self.num_scored / self.num_images


@dataclass(frozen=True)
class Profile:
    """A night in small numbers.

    Args:
        run: name of the night.
        revision: the newest that was closed when it was measured.
        began_at: time when its first revision was closed, UTC, ISO 8601; nights are in this order.
        closed_at: time when its newest was closed.
        models: `config.models` of the night; such a night tries other models out, and none that
            follows is set beside it.
        groups: groups by category, then line.
    """

    run: str
    revision: int
    began_at: str
    closed_at: str
    models: str
    groups: tuple[ProfileGroup, ...]

    @property
    def by_key(self) -> dict[tuple[str, str], ProfileGroup]:
        """The groups by category and line."""
        return {group.key: group for group in self.groups}

    def to_parquet(self) -> bytes:
        """The profile as a file; `from_parquet` of it is equal, but for arrays' identity."""
        facts = {name: str(getattr(self, name)) for name in _FACTS}
        schema_of_file = PROFILE.with_metadata({**PROFILE.metadata, **facts})
        rows = [_to_row(group) for group in self.groups]
        return schema.to_parquet(pa.Table.from_pylist(rows, schema=schema_of_file))

    @classmethod
    def from_parquet(cls, data: bytes, *, name: str) -> Profile:
        """The profile in the bytes of a file; `name` is its name in errors.

        Raises:
            ArtefactError: it is damaged, or no profile of this version.
        """
        table = schema.from_parquet(data, name=name)
        metadata = table.schema.metadata or {}
        facts = {key.decode(): value.decode() for key, value in metadata.items()}
        version = facts.get("schema_version")
        if facts.get("schema") != "mrkd.profile" or version != str(PROFILE_VERSION):
            raise ArtefactError(
                f"{name} is not a profile of version {PROFILE_VERSION}: `mrkd report` on its night "
                "writes it again"
            )
        values: dict[str, Any] = {key: facts[key] for key in _FACTS}
        groups = tuple(map(_to_group, table.to_pylist()))
        return cls(**{**values, "revision": int(values["revision"])}, groups=groups)


_FACTS = ("run", "revision", "began_at", "closed_at", "models")


def read(night_uri: str) -> Profile:
    """The profile in a night's folder.

    Raises:
        StorageError: there is none, or it cannot be read.
        ArtefactError: it is damaged.
    """
    uri = storage.join(night_uri, FILE)
    return Profile.from_parquet(storage.read(uri), name=uri)


def quantiles(values: ArrayLike) -> NDArray[np.float32]:
    """Quantiles at `SHARES`, float32 `[21]`; of at least one value."""
    return np.asarray(np.quantile(np.asarray(values, np.float64), SHARES), np.float32)


def _to_row(group: ProfileGroup) -> dict[str, Any]:
    plain = ("category", "line", "num_images", "num_ok", "num_nok")
    row: dict[str, Any] = {name: getattr(group, name) for name in plain}
    row |= {name: getattr(group, name) or None for name in ("model_version", "calibration")}
    row |= {name: list(getattr(group, name).items()) for name in ("errors", "sizes")}
    return row | {name: group.quantiles.get(name, np.zeros(0)).tolist() for name in QUANTITIES}


def _to_group(row: dict[str, Any]) -> ProfileGroup:
    found = {name: np.array(row.pop(name), np.float32) for name in QUANTITIES}
    return ProfileGroup(
        **row
        | {name: dict(row[name]) for name in ("errors", "sizes")}
        | {"model_version": row["model_version"] or "", "calibration": row["calibration"] or 0},
        quantiles={name: values for name, values in found.items() if len(values)},
    )
