"""Reader of a comparison's folder, both nights and their models for the comparison's page.

Nothing is scored again. A file that can no longer be read is named in a line on the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mrkd import storage
from mrkd.errors import ArtefactError, NightError, StorageError
from mrkd.nights import compare_nights
from mrkd.nights.archived_images import read_images
from mrkd.nights.compare_nights import CategoryChange, Comparison
from mrkd.nights.manifest import open_night, read_manifests, readable
from mrkd.reports.kit.values import Row, ScoredImage
from mrkd.reports.night.picture import ModelFiles, drawn, read_model
from mrkd.storage import schema
from mrkd.storage.thread_map import in_threads

RECORD = compare_nights.RECORD

NUM_SHOWN = 50
"""Images that the page shows, each as both nights saw it."""

_COLUMNS = ["image_uri", "revision", "image_etag", "image_bytes", "image_score", "p_value"]
_COLUMNS += ["image_height", "image_width", "is_anomalous", "regions", *schema.MAP_COLUMNS]

_UNREADABLE = (StorageError, ArtefactError, NightError)


@dataclass(frozen=True)
class Pair:
    """An image as both nights scored it.

    Args:
        row: row of `compare_nights.COMPARISON`.
        a: the image with the first night's map and regions.
        b: the image with the second night's.
    """

    row: Row
    a: ScoredImage
    b: ScoredImage


@dataclass(frozen=True)
class ComparisonData:
    """Everything the page of a comparison shows.

    Args:
        found: the comparison.
        worst: images that are judged most differently, the most different first.
        teachers: names of the teachers of both nights' models.
        gaps: one line for each thing that could not be read.
        config: the resolved config of each night, by its name.
    """

    found: Comparison
    worst: Sequence[Pair] = ()
    teachers: Sequence[str] = ()
    gaps: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class _Night:
    """One night, as far as it can still be read."""

    config: Mapping[str, Any] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    data: dict[str, bytes] = field(default_factory=dict)


def load_comparison_data(comparison_uri: str) -> ComparisonData:
    """Everything that the page of a comparison shows.

    Args:
        comparison_uri: `<workspace>/comparisons/<A>--<B>`.

    Raises:
        StorageError: the comparison cannot be read.
        ArtefactError: it is damaged, or of another version of mrkd.
    """
    found = Comparison.read(comparison_uri)
    worst = found.worst(NUM_SHOWN)
    gaps: list[str] = []
    models = _models(found.workspace, found.categories)
    gaps += [model.gap for model in models.values() if model.gap]
    a = _night(found.workspace, found.run_a, worst, gaps)
    b = _night(found.workspace, found.run_b, worst, gaps)
    _read_images(found, worst, a, b)
    return ComparisonData(
        found,
        worst=[Pair(row, _seen(row, "a", a, models), _seen(row, "b", b, models)) for row in worst],
        teachers=sorted({one.card.teacher.name for one in models.values() if one.card}),
        gaps=gaps,
        config={found.run_a: a.config, found.run_b: b.config},
    )


def _models(
    workspace: str, categories: Iterable[CategoryChange]
) -> dict[tuple[str, str], ModelFiles]:
    """Card and calibration of every model, by category and `<version>/<calibration>`."""
    names = sorted({(one.category, m) for one in categories for m in one.models_a + one.models_b})

    def read(name: tuple[str, str]) -> ModelFiles:
        version, _, number = name[1].rpartition("/")
        return read_model(workspace, name[0], version, int(number))

    return dict(zip(names, in_threads(read, names), strict=True))


def _night(workspace: str, run: str, worst: Sequence[Row], gaps: list[str]) -> _Night:
    """A night's config, and its whole rows of the images that are shown."""
    uri = storage.join(workspace, "nights", run)
    try:
        config = read_manifests(uri)[-1:]
        among = [
            pc.field(name).isin(pa.array({row[name] for row in worst}, pa.string()))
            for name in ("category", "image_uri")
        ]
        with readable(uri):
            night = open_night(uri)
            rows = night.to_table(columns=_COLUMNS, filter=among[0] & among[1]).to_pylist()
    except _UNREADABLE as error:
        gaps.append(str(error))
        return _Night()
    return _Night(config[0].config, {row["image_uri"]: row for row in rows})


def _read_images(found: Comparison, worst: Sequence[Row], a: _Night, b: _Night) -> None:
    """Reads the images that are shown; those that are the same in both nights, once."""
    for night, run in ((a, found.run_a), (b, found.run_b)):
        uri = storage.join(found.workspace, "nights", run)
        tars = tuple(night.config.get("archive", {}).get("tars", ()))
        rows = [row for name, row in night.rows.items() if name not in night.data]
        night.data |= read_images(uri, rows, tars)
        if night is a:
            same = {row["image_uri"] for row in worst if row["same_image"]}
            b.data |= {name: data for name, data in a.data.items() if name in same}


def _seen(
    compared: Row, side: str, night: _Night, models: Mapping[tuple[str, str], ModelFiles]
) -> ScoredImage:
    """An image as one night scored it; without pixels and map where the night is gone."""
    row = night.rows.get(compared["image_uri"])
    if row is None:
        return ScoredImage(compared)
    name = f"{compared[f'model_version_{side}']}/{compared[f'calibration_{side}']}"
    return drawn(row, models.get((compared["category"], name), ModelFiles()), night.data)
