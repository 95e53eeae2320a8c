"""Reader of a fleet's folder and its models' folders for the fleet's page.

Nothing is scored again. A file of a model that cannot be read is named in a line on the page, which
shows all the other models: the page is the last thing that a fleet does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mrkd import storage
from mrkd.errors import ArtefactError, StorageError
from mrkd.model import artefact
from mrkd.model.registry import promotions
from mrkd.reports.kit import read as stored
from mrkd.reports.kit.values import Row, ScoredImage
from mrkd.storage import schema
from mrkd.storage.thread_map import in_threads
from mrkd.training.fleet_store import FLEET_VERSION

RECORD = "fleet.json"

LOSSES = ("epoch", "loss", "validation_loss")
_SCORES = ("image_uri", "side", "image_height", "image_width", "image_score", "is_anomalous")


@dataclass(frozen=True)
class Training:
    """The training of one category, and what its model's folder holds.

    Args:
        record: `categories/<c>.json`: `CategoryResult`, or the reason of a failure.
        teacher: name of the teacher; empty where the model's card cannot be read.
        pixel_threshold: pixel threshold of its first calibration; 0 where that cannot be read.
        losses: the columns `LOSSES` of its epochs; None where they are not stored.
        scores: scores of its good images, with `side`, and `group` where it is stored; None where
            they are not stored.
        suspect_uris: training images above its threshold, the highest first.
        suspects: the first of them.
        promoted_since: the person who put a held model to use nevertheless, and why; empty: nobody.
        gaps: one line for each file that could not be read.
    """

    record: Row
    teacher: str = ""
    pixel_threshold: float = 0.0
    losses: pa.Table | None = None
    scores: pa.Table | None = None
    suspect_uris: Sequence[str] = ()
    suspects: Sequence[ScoredImage] = ()
    promoted_since: str = ""
    gaps: Sequence[str] = ()

    @property
    def gate(self) -> Row:
        """The decision on its promotion; empty where nothing decided."""
        return self.record.get("gate") or {}

    @property
    def is_held(self) -> bool:
        """Whether the gate keeps the model from being used, to this day."""
        return self.gate.get("state") == "held" and not self.promoted_since


@dataclass(frozen=True)
class FleetData:
    """Everything the page of a fleet shows.

    Args:
        record: `fleet.json`.
        workspace: URI of the workspace that holds it.
        trainings: the categories that have ended, sorted by name.
    """

    record: Row
    workspace: str
    trainings: Sequence[Training]


def load_fleet_data(fleet_uri: str) -> FleetData:
    """Everything that the page of a fleet shows, of the categories that have ended so far.

    Args:
        fleet_uri: `<workspace>/fleets/<run>`.

    Raises:
        StorageError: a file of the fleet's own folder cannot be read.
        ArtefactError: the fleet is of another version of mrkd.
    """
    fleet_uri = storage.join(fleet_uri)
    record = stored.record(fleet_uri, RECORD, version=FLEET_VERSION, advice="start the fleet again")
    # Not the workspace that the record names: it may be relative, or have been moved since.
    workspace = fleet_uri.rsplit("/", 2)[0]
    files = storage.list_files(storage.join(fleet_uri, "categories"), suffixes=(".json",))
    records = list(in_threads(storage.read_json, [file.uri for file in files]))
    records.sort(key=lambda record: str(record["category"]))
    found = list(in_threads(partial(_training, workspace), records))
    return FleetData(record, workspace, list(_with_images(found)))


def _training(workspace: str, record: Row) -> tuple[Training, list[Row]]:
    """A category, and the rows of its suspects that may be shown, the highest first."""
    if "version" not in record:
        return Training(record), []
    facts: dict[str, Any] = {}
    gaps = []
    for read in (_promotion, _model, _losses, _scores):
        try:
            facts |= read(workspace, record)
        except (StorageError, ArtefactError) as error:
            gaps.append(str(error))
    rows = facts.pop("rows", [])
    return Training(record, **facts, gaps=gaps), rows


def _promotion(workspace: str, record: Row) -> dict[str, Any]:
    """Whether a person has promoted a held model since the record was stored."""
    if record["gate"].get("state") != "held":
        return {}
    champion = promotions.champion(workspace, record["category"])
    if champion is None or champion.version != record["version"]:
        return {}
    return {"promoted_since": f"{champion.by}: {champion.why}"}


def _model(workspace: str, record: Row) -> dict[str, Any]:
    model = (workspace, record["category"], record["version"])
    calibration = artefact.read_calibration(*model, 1)
    card = artefact.read_card(*model)
    return {"teacher": card.teacher.name, "pixel_threshold": calibration.pixel_threshold}


def _losses(workspace: str, record: Row) -> dict[str, Any]:
    table = stored.table(_file(workspace, record, "history.parquet"), LOSSES)
    return {"losses": table} if len(table) else {}


def _scores(workspace: str, record: Row) -> dict[str, Any]:
    uri = _file(workspace, record, "training_scores.parquet")
    table = stored.table(uri, [*_SCORES, *schema.MAP_COLUMNS], ["is_suspect", "group"])
    # Versions of before there were folds suspect what they were trained on and call anomalous.
    suspect = pc.field("is_suspect")
    if "is_suspect" not in table.column_names:
        suspect = (pc.field("side") == "train") & pc.field("is_anomalous")
    odd = table.filter(suspect)
    odd = odd.sort_by([("image_score", "descending"), ("image_uri", "ascending")])
    return {
        "scores": table.drop_columns([*schema.MAP_COLUMNS]),
        "suspect_uris": odd["image_uri"].to_pylist(),
        "rows": odd.slice(0, stored.PICTURES_PER_CATEGORY).to_pylist(),
    }


def _file(workspace: str, record: Row, name: str) -> str:
    folder = artefact.folder_of(workspace, record["category"], record["version"])
    return storage.join(folder, name)


def _with_images(found: Sequence[tuple[Training, Sequence[Row]]]) -> Iterator[Training]:
    """The trainings with the images of their suspects, as many as there is room for in all."""
    # Every category's first before any one's second: none is without, if it can be helped.
    ranks = [(rank, n) for n, (_, rows) in enumerate(found) for rank in range(len(rows))]
    chosen = sorted(ranks)[: stored.PICTURES_IN_ALL]

    def draw(at: tuple[int, int]) -> ScoredImage:
        rank, n = at
        training, rows = found[n]
        return stored.scored_image(
            rows[rank],
            image_size=training.record["image_size"],
            resize=training.record["resize"],
            pixel_threshold=training.pixel_threshold,
        )

    drawn = list(in_threads(draw, chosen))
    for n, (training, _) in enumerate(found):
        own = [one for (_, owner), one in zip(chosen, drawn, strict=True) if owner == n]
        yield replace(training, suspects=own)
