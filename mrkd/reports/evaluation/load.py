"""Reader of an evaluation's folder for its page: records, rows, and the images they name.

Nothing is scored again. Maps and regions are read for the shown images alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from mrkd import storage
from mrkd.nights.manifest import open_night, readable
from mrkd.reports.kit import read as stored
from mrkd.reports.kit.values import Row, ScoredImage
from mrkd.storage import schema

RECORD = "evaluation.json"
EVALUATION_VERSION = 2

ERRORS_SHOWN = 50

_ROW = ["image_uri", "image_score", "error_kind", "error_message"]
_LABELS = ["category", "gt_label", "defect", "headline"]
_DRAWN = ["p_value", "is_anomalous", "image_height", "image_width", "regions", "gt_mask_uri"]


@dataclass(frozen=True)
class Category:
    """One category of the page.

    Args:
        name: name of the category.
        facts: its entry of `evaluation.json`: the model that scored it, or its failure.
        rows: its images, with the columns `_ROW` and `_LABELS` of `scores.parquet`.
        metrics: rows of `schema.METRICS`.
        operating: rows of `schema.OPERATING`.
        highest: the highest-scored images, the highest first.
        nearest: the images nearest the threshold, the nearest first.
        leaks: `stored.leak_pairs`, the most alike first.
        num_leaks: number of all pairs; None without a leak check.
    """

    name: str
    facts: Row
    rows: pa.Table
    metrics: Sequence[Row] = ()
    operating: Sequence[Row] = ()
    highest: Sequence[ScoredImage] = ()
    nearest: Sequence[ScoredImage] = ()
    leaks: Sequence[Row] = ()
    num_leaks: int | None = None

    @property
    def failure(self) -> str:
        """The reason why figures are missing, one line; empty otherwise."""
        return str(self.facts["reason"]) if self.facts["status"] == "failed" else ""

    @property
    def scored(self) -> pa.Table:
        """Its rows with a score."""
        return self.rows.filter(pc.field("error_kind").is_null())

    @property
    def errors(self) -> pa.Table:
        """Its rows without a score."""
        return self.rows.filter(pc.field("error_kind").is_valid())


@dataclass(frozen=True)
class Archive:
    """A night's calls on an archive without labels.

    Args:
        run: name of the night.
        counts: by category the numbers of OK, NOK and ERROR images.
        errors: rows of the first images that could not be scored.
        num_errors: number of errors by kind.
    """

    run: str
    counts: Mapping[str, tuple[int, int, int]]
    errors: Sequence[Row]
    num_errors: Mapping[str, int]


@dataclass(frozen=True)
class PageData:
    """Everything the page of an evaluation shows.

    Args:
        record: `evaluation.json`.
        categories: sorted by name.
        scored_at: time at which the images were scored, as stored; empty where unknown.
        archive: a night's rows beside the evaluation, if any.
    """

    record: Row
    categories: Sequence[Category]
    scored_at: str = ""
    archive: Archive | None = None


def load_page_data(evaluation_uri: str, *, night_uri: str = "") -> PageData:
    """Everything that the page of an evaluation shows.

    Args:
        evaluation_uri: `<workspace>/evaluations/<run>`.
        night_uri: `<workspace>/nights/<run>` of a night to show beside it; empty: none.

    Raises:
        StorageError: a file of the evaluation cannot be read.
        ArtefactError: one is damaged, or of a newer mrkd.
        NightError: the night is not closed.
    """
    record = stored.record(
        evaluation_uri, RECORD, version=EVALUATION_VERSION, advice="evaluate again"
    )
    names = ["metrics", "operating"] + ["leaks"] * bool(record["config"].get("check_leaks"))
    tables = {name: stored.parquet(evaluation_uri, name) for name in names}
    filesystem, path = storage.open_uri(storage.join(evaluation_uri, "scores.parquet"))
    scores = ds.dataset(path, filesystem=filesystem, format="parquet")
    tables["rows"] = scores.to_table(columns=_ROW + _LABELS)
    facts = record["categories"]
    return PageData(
        record=record,
        categories=[
            _category(
                name,
                facts[name],
                {key: table.filter(pc.field("category") == name) for key, table in tables.items()},
                scores,
                # With more categories than there is room for images, figures alone are shown.
                min(stored.PICTURES_PER_CATEGORY, stored.PICTURES_IN_ALL // len(facts)),
            )
            for name in sorted(facts)
        ],
        scored_at=(scores.schema.metadata or {}).get(b"scored_at", b"").decode(),
        archive=_archive(night_uri) if night_uri else None,
    )


def _category(
    name: str, facts: Row, tables: Mapping[str, pa.Table], scores: ds.Dataset, num_shown: int
) -> Category:
    rows, leaks = tables["rows"], tables.get("leaks")
    if facts["status"] == "failed":
        return Category(name, facts, rows)
    scored = rows.filter(pc.field("error_kind").is_null())
    image_scores, uris = scored["image_score"].to_numpy(), scored["image_uri"].to_pylist()
    distance = np.abs(image_scores - np.float32(facts["threshold"]))
    chosen = [np.argsort(by, kind="stable")[:num_shown] for by in (-image_scores, distance)]
    shown = _images(name, facts, scores, [uris[n] for n in {*chosen[0], *chosen[1]}])
    highest, nearest = ([shown[uris[n]] for n in some] for some in chosen)
    return Category(
        name,
        facts,
        rows,
        metrics=tables["metrics"].to_pylist(),
        operating=tables["operating"].to_pylist(),
        highest=highest,
        nearest=nearest,
        leaks=stored.leak_pairs(leaks.slice(0, num_shown).to_pylist()) if leaks else (),
        num_leaks=None if leaks is None else leaks.num_rows,
    )


def _images(
    category: str, facts: Row, scores: ds.Dataset, uris: Sequence[str]
) -> dict[str, ScoredImage]:
    chosen = (pc.field("category") == category) & pc.field("image_uri").isin(uris)
    columns = _ROW[:2] + _LABELS[1:] + _DRAWN + [*schema.MAP_COLUMNS]
    table = scores.to_table(columns=columns, filter=chosen)
    model = {name: facts[name] for name in ("image_size", "resize", "pixel_threshold")}
    return {row["image_uri"]: stored.scored_image(row, **model) for row in table.to_pylist()}


def _archive(night_uri: str) -> Archive:
    columns = ["category", "image_uri", "is_anomalous", "error_kind", "error_message"]
    with readable(night_uri):
        rows = open_night(night_uri).to_table(columns=columns)
    errors = rows.filter(pc.field("error_kind").is_valid())
    calls = Counter(
        zip(rows["category"].to_pylist(), rows["is_anomalous"].to_pylist(), strict=True)
    )
    return Archive(
        run=night_uri.rstrip("/").rpartition("/")[2],
        counts={
            name: (calls[name, False], calls[name, True], calls[name, None])
            for name in sorted({category for category, _ in calls})
        },
        errors=errors.slice(0, ERRORS_SHOWN).to_pylist(),
        num_errors=dict(sorted(Counter(errors["error_kind"].to_pylist()).items())),
    )
