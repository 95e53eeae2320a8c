"""Two nights over the same images, by two sets of models: what they say differently.

    comparisons/<A>--<B>/comparison.parquet   one row for each image of either night
                         report.html          the page (`reports.write_page`)
                         summary.json         the verdict of the command

Nothing is scored: both nights' rows are joined by the images' URIs, category by category. An image
that the nights file under different categories is in each of them missing on a side.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from mrkd import storage
from mrkd.config import check_name
from mrkd.errors import ArtefactError, ConfigError
from mrkd.nights.manifest import (
    DECISION,
    categories_of,
    open_night,
    read_manifests,
    readable,
)
from mrkd.storage import schema

RECORD = "comparison.parquet"
COMPARISON_VERSION = 1

CHANGES = ("ok_to_nok", "nok_to_ok", "to_error", "from_error", "only_a", "only_b")
"""In which an image's verdicts may differ."""

_SIDES = ("a", "b")
_MODELS = ("models_a", "models_b")


def _sided() -> Iterable[pa.Field]:
    for side in _SIDES:
        yield pa.field(f"verdict_{side}", pa.string(), metadata={"doc": "OK, NOK, ERROR or null"})
        yield pa.field(f"image_score_{side}", pa.float32())
        yield pa.field(f"p_value_{side}", pa.float32())
        yield pa.field(f"threshold_{side}", pa.float32())
        doc = "share of the category's images below it, of those that both nights scored"
        yield pa.field(f"rank_{side}", pa.float32(), metadata={"doc": doc})
        yield pa.field(f"error_kind_{side}", pa.string())
        yield pa.field(f"model_version_{side}", pa.string())
        yield pa.field(f"calibration_{side}", pa.int32())


COMPARISON = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("change", pa.string(), metadata={"doc": "of CHANGES; null: the same verdict"}),
        pa.field("same_image", pa.bool_(), metadata={"doc": "ETags equal; null: one is not known"}),
        *_sided(),
    ],
    metadata={"schema": "mrkd.comparison", "schema_version": str(COMPARISON_VERSION)},
)
"""Rows of `comparison.parquet`, by category, then URI; a night without the image has nulls."""

_READ = ("image_etag", "p_value", *DECISION)


@dataclass(frozen=True)
class CategoryChange:
    """What differs in one category.

    Args:
        category: its name.
        models_a: version and calibration of each model that scored it in the first night.
        models_b: version and calibration of each model that scored it in the second night.
        images: number of images that either night has.
        both: images that both nights scored.
        changes: number of images by `CHANGES`.
        other_images: number of images whose bytes are not the same in both nights.
        rank_correlation: Spearman's, of the scores; None under 2 images, or where all are equal.
    """

    category: str
    models_a: tuple[str, ...]
    models_b: tuple[str, ...]
    images: int
    both: int
    changes: Mapping[str, int]
    other_images: int
    rank_correlation: float | None


@dataclass(frozen=True)
class Comparison:
    """Two nights side by side: the changes of each category, by name, and `COMPARISON` rows."""

    workspace: str
    run_a: str
    run_b: str
    categories: tuple[CategoryChange, ...]
    rows: pa.Table

    @property
    def uri(self) -> str:
        """Its folder."""
        return storage.join(self.workspace, "comparisons", f"{self.run_a}--{self.run_b}")

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of images over all categories."""
        every = self.categories
        return {
            "images": sum(one.images for one in every),
            "both": sum(one.both for one in every),
            **{name: sum(one.changes[name] for one in every) for name in CHANGES},
            "other_images": sum(one.other_images for one in every),
        }

    def table(self) -> list[dict[str, Any]]:
        """A row for each category, for the command's output."""
        return [
            {
                "category": one.category,
                "images": one.images,
                **one.changes,
                "rank_correlation": one.rank_correlation,
                "models_a": one.models_a,
                "models_b": one.models_b,
            }
            for one in self.categories
        ]

    def worst(self, number: int) -> list[dict[str, Any]]:
        """Rows of the images that the nights judge most differently, the most different first.

        By the change of their p-value, then of their rank within the category.
        """
        rows = self.rows
        change = {
            name: pc.abs(pc.subtract(rows[f"{name}_b"], rows[f"{name}_a"]))
            for name in ("p_value", "rank")
        }
        keys = pa.table({**change, "image_uri": rows["image_uri"]})
        order = [("p_value", "descending"), ("rank", "descending"), ("image_uri", "ascending")]
        first = rows.take(pc.select_k_unstable(keys, k=number, sort_keys=order))
        # Nulls come last: images that only one night scored.
        return list(first.filter(pc.is_valid(first["rank_a"])).to_pylist())

    def store(self) -> str:
        """Writes `comparison.parquet`, over an earlier one, and returns its URI."""
        facts = {key: value for key, value in vars(self).items() if key != "rows"}
        facts["categories"] = [asdict(one) for one in self.categories]
        metadata = {**(COMPARISON.metadata or {}), b"comparison": json.dumps(facts)}
        uri = storage.join(self.uri, RECORD)
        storage.write(uri, schema.to_parquet(self.rows.replace_schema_metadata(metadata)))
        return uri

    @classmethod
    def read(cls, folder: str) -> Self:
        """The comparison that was stored in a folder; its workspace is the one that it lies in.

        Raises:
            StorageError: it cannot be read.
            ArtefactError: it is damaged, or of another version of mrkd.
        """
        folder = storage.join(folder)
        uri = storage.join(folder, RECORD)
        table = schema.from_parquet(storage.read(uri), name=uri)
        metadata = table.schema.metadata or {}
        try:
            facts = json.loads(metadata[b"comparison"])
            facts["categories"] = tuple(
                CategoryChange(**{**one, **{name: tuple(one[name]) for name in _MODELS}})
                for one in facts["categories"]
            )
            facts["workspace"] = folder.rsplit("/", 2)[0]
            found = cls(**facts, rows=table)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(
                f"{uri} is not a comparison of this version of mrkd ({error!r}): compare again"
            ) from error
        if not table.schema.equals(COMPARISON):
            raise ArtefactError(f"{uri} has other columns than this version: compare again")
        return found


def compare(workspace: str, run_a: str, run_b: str) -> Comparison:
    """What two closed nights of a workspace say of the same images.

    Raises:
        ConfigError: a name is none, or both are the same.
        NightError: one of them is not there, or not closed.
        StorageError: one of them cannot be read.
    """
    for run in (run_a, run_b):
        check_name("run", run)
    if run_a == run_b:
        raise ConfigError(f"both nights are {run_a!r}: name two")
    nights = [storage.join(workspace, "nights", run) for run in (run_a, run_b)]
    rows = [(night, open_night(night)) for night in nights]
    manifests = chain.from_iterable(map(read_manifests, nights))
    categories, tables = [], []
    # One category at a time: memory holds what is compared, not both nights' whole rows.
    for category in categories_of(manifests):
        joined = _joined([_side(*one, category) for one in rows], category)
        categories.append(_category_change(category, joined))
        tables.append(joined)
    return Comparison(
        storage.join(workspace), run_a, run_b, tuple(categories), pa.concat_tables(tables)
    )


def _side(night_uri: str, rows: ds.Dataset, category: str) -> pa.Table:
    """One night's rows of a category, each with its verdict."""
    with readable(night_uri):
        table = rows.to_table(columns=list(_READ), filter=pc.field("category") == category)
    scored = pc.if_else(pc.fill_null(table["is_anomalous"], False), "NOK", "OK")
    verdict = pc.if_else(pc.is_valid(table["error_kind"]), "ERROR", scored)
    kind = table["error_kind"].cast(pa.string())
    place = table.schema.get_field_index("error_kind")
    table = table.set_column(place, "error_kind", kind)
    return table.drop_columns(["is_anomalous"]).append_column("verdict", verdict)


def _joined(sides: list[pa.Table], category: str) -> pa.Table:
    """The rows of a category (`COMPARISON`), by URI."""
    a, b = sides
    suffixes = {"left_suffix": "_a", "right_suffix": "_b"}
    joined = a.join(b, "image_uri", join_type="full outer", **suffixes).sort_by("image_uri")
    both = pc.and_(pc.is_valid(joined["image_score_a"]), pc.is_valid(joined["image_score_b"]))
    where = np.flatnonzero(both.to_numpy(zero_copy_only=False))
    for side in _SIDES:
        ranks = np.full(joined.num_rows, np.nan, np.float32)
        ranks[where] = ranked(joined[f"image_score_{side}"].to_numpy()[where])
        ranks_or_null = pa.array(ranks, from_pandas=True)  # NaN: null
        joined = joined.append_column(f"rank_{side}", ranks_or_null)
    columns = {
        "category": pa.repeat(category, joined.num_rows),
        "change": _change(joined["verdict_a"], joined["verdict_b"]),
        "same_image": pc.equal(joined["image_etag_a"], joined["image_etag_b"]),
    }
    for name, values in columns.items():
        joined = joined.append_column(name, values)
    return joined.select(COMPARISON.names).cast(COMPARISON)


def _change(a: pa.ChunkedArray, b: pa.ChunkedArray) -> pa.ChunkedArray:
    """Of `CHANGES` for two columns of verdicts; null where they are equal."""
    cases = [
        pc.is_null(b),
        pc.is_null(a),
        pc.equal(a, b),
        pc.equal(b, "ERROR"),
        pc.equal(a, "ERROR"),
        pc.equal(b, "NOK"),
    ]
    changes = ("only_a", "only_b", None, "to_error", "from_error", "ok_to_nok", "nok_to_ok")
    conditions = pc.make_struct(*(pc.fill_null(case, False) for case in cases))
    return pc.case_when(conditions, *(pa.scalar(value, pa.string()) for value in changes))


def _category_change(category: str, rows: pa.Table) -> CategoryChange:
    numbers = {row["values"]: row["counts"] for row in pc.value_counts(rows["change"]).to_pylist()}
    a, b = (rows[f"rank_{side}"].drop_null().to_numpy() for side in _SIDES)
    return CategoryChange(
        category=category,
        models_a=_models(rows, "a"),
        models_b=_models(rows, "b"),
        images=rows.num_rows,
        both=len(a),
        changes={name: numbers.get(name, 0) for name in CHANGES},
        other_images=pc.sum(pc.equal(rows["same_image"], False)).as_py() or 0,
        rank_correlation=rank_correlation(a, b),
    )


def _models(rows: pa.Table, side: str) -> tuple[str, ...]:
    """Version and calibration, `<version>/<number>`, of each model of a side, sorted."""
    columns = [f"model_version_{side}", f"calibration_{side}"]
    found = rows.select(columns).group_by(columns).aggregate([]).to_pylist()
    pairs = [tuple(row.values()) for row in found]
    return tuple(sorted(f"{version}/{number}" for version, number in pairs if version is not None))


def ranked(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Of each of n scores the share that lies below it, equal ones counted by half: in (0, 1)."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts
    return np.asarray((below[place] + counts[place] / 2) / max(len(scores), 1))


def rank_correlation(a: NDArray[Any], b: NDArray[Any]) -> float | None:
    """Spearman's correlation of two columns of numbers; None where it is not defined."""
    if len(a) < 2:
        return None
    x, y = (ranked(values) - 0.5 for values in (a, b))
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else None
