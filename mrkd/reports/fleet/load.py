"""What the page of a fleet shows, read from its folder and its models' folders.

Nothing is scored again. A file of a model that cannot be read leaves a line in its place: the page
is the last thing a fleet does, and it tells of all the other models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow.compute as pc

from mrkd import storage
from mrkd.errors import ArtefactError, StorageError
from mrkd.model import artefact
from mrkd.model.registry import promotions
from mrkd.reports.fleet.values import FleetData, Gate, Training
from mrkd.reports.kit import read as stored
from mrkd.reports.kit.values import Losses, Measure, Picture
from mrkd.storage import schema
from mrkd.storage.thread_map import in_threads
from mrkd.training.fleet_store import FLEET_VERSION, doubts_of

RECORD = "fleet.json"

_LOSSES = ("epoch", "loss", "validation_loss")
_SCORES = ("image_uri", "side", "image_height", "image_width", "image_score", "is_anomalous")
_RESULT = (
    "version",
    "num_images",
    "image_size",
    "threshold",
    "seconds",
    "images_per_s",
    "model_bytes",
)
_MEASURED = ("state", "reason", "by", "num_good", "num_defective")

# Of a training's groups so many are shown, each with so many names.
_GROUPS, _NAMES = 12, 4

Row = Mapping[str, Any]


def load_fleet_data(fleet_uri: str) -> FleetData:
    """Everything that the page of a fleet shows, of the categories that have ended so far.

    Args:
        fleet_uri: `<workspace>/fleets/<run>`.

    Raises:
        StorageError: a file of the fleet's own folder cannot be read.
        ArtefactError: the fleet is of another version of mrkd.
    """
    fleet_uri = storage.join(fleet_uri)
    fleet = stored.record(
        storage.join(fleet_uri, RECORD), version=FLEET_VERSION, advice="start the fleet again"
    )
    # Not the workspace that the record names: it may be relative, or have been moved since.
    workspace = fleet_uri.rsplit("/", 2)[0]
    files = storage.list_files(storage.join(fleet_uri, "categories"), suffixes=(".json",))
    records = list(in_threads(storage.read_json, [file.uri for file in files]))
    records.sort(key=lambda record: str(record["category"]))
    found = list(in_threads(partial(_training, workspace), records))
    return FleetData(
        run=fleet["run"],
        workspace=workspace,
        root=fleet["root"],
        state=fleet["state"],
        started_at=fleet["started_at"],
        finished_at=fleet["finished_at"],
        trainings=tuple(_with_pictures(found, records)),
        config=fleet["config"],
    )


def _training(workspace: str, record: Row) -> tuple[Training, list[Row]]:
    """What is known of a category, and the rows of its suspects, the highest first."""
    training = Training(
        record["category"],
        record["status"],
        record["attempts"],
        reason=record.get("error") or record.get("reason", ""),
        traceback_uri=record.get("traceback", ""),
    )
    if "version" not in record:
        return training, []
    facts: dict[str, Any] = {name: record[name] for name in _RESULT}
    facts |= {name: tuple(record[name]) for name in ("skipped", "warnings")}
    facts["gate"] = _gate(record["gate"])
    facts["doubts"] = tuple(doubts_of(record))
    facts["no_student"] = record.get("no_student", "")
    gaps = []
    for read in (_promotion, _card, _losses, _scores):
        try:
            facts |= read(workspace, record)
        except (StorageError, ArtefactError) as error:
            gaps.append(str(error))
    rows = facts.pop("rows", [])
    return replace(training, **facts, gaps=tuple(gaps)), rows


def _gate(record: Row) -> Gate:
    def measure(record: Row | None) -> Measure:
        found = record or {}
        return Measure(found.get("value"), found.get("low"), found.get("high"))

    champion = record.get("champion") or {}
    return Gate(
        **{name: record[name] for name in _MEASURED if name in record},
        image_auroc=measure(record.get("image_auroc")),
        champion=champion.get("version", ""),
        champion_auroc=measure(champion.get("image_auroc")),
        difference=measure(record.get("difference")),
    )


def _promotion(workspace: str, record: Row) -> dict[str, Any]:
    """Whether a person has promoted a held model since: the record is of an earlier day."""
    gate = _gate(record["gate"])
    if gate.state != "held":
        return {}
    champion = promotions.champion(workspace, record["category"])
    if champion is None or champion.version != record["version"]:
        return {}
    return {"gate": replace(gate, promoted_since=f"{champion.by}: {champion.why}")}


def _card(workspace: str, record: Row) -> dict[str, Any]:
    model = (workspace, record["category"], record["version"])
    calibration = artefact.read_calibration(*model, 1)
    return {
        "teacher": artefact.read_card(*model).teacher.name,
        "pixel_threshold": calibration.pixel_threshold,
    }


def _losses(workspace: str, record: Row) -> dict[str, Any]:
    table = stored.table(_file(workspace, record, "history.parquet"), _LOSSES)
    epochs, training, validation = (table[name].to_numpy() for name in _LOSSES)
    return {"losses": Losses(epochs, training, validation)} if len(epochs) else {}


def _scores(workspace: str, record: Row) -> dict[str, Any]:
    uri = _file(workspace, record, "training_scores.parquet")
    table = stored.table(uri, [*_SCORES, *schema.MAP_COLUMNS], ["is_suspect", "group"])
    # Versions of before there were folds suspect what they were trained on and call anomalous.
    suspect = pc.field("is_suspect")
    if "is_suspect" not in table.column_names:
        suspect = (pc.field("side") == "train") & pc.field("is_anomalous")
    odd = table.filter(suspect)
    groups = table["group"].to_pylist() if "group" in table.column_names else []
    odd = odd.sort_by([("image_score", "descending"), ("image_uri", "ascending")])
    return {
        "scores": table["image_score"].to_numpy(),
        "sides": np.array(table["side"].to_pylist(), dtype=np.object_),
        "num_groups": len(set(groups)),
        "groups": _largest(groups, table["image_uri"].to_pylist()) if groups else (),
        "suspect_uris": tuple(odd["image_uri"].to_pylist()),
        "rows": odd.slice(0, stored.PICTURES_PER_CATEGORY).to_pylist(),
    }


def _largest(groups: Sequence[int], uris: Sequence[str]) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """The groups of more than one image, the largest first, each with its size and some names."""
    members: dict[int, list[str]] = {}
    for group, uri in zip(groups, uris, strict=True):
        members.setdefault(group, []).append(uri.rpartition("/")[2])
    shared = sorted(sorted(some) for some in members.values() if len(some) > 1)
    shared.sort(key=len, reverse=True)
    return tuple((len(some), tuple(some[:_NAMES])) for some in shared[:_GROUPS])


def _file(workspace: str, record: Row, name: str) -> str:
    folder = artefact.folder_of(workspace, record["category"], record["version"])
    return storage.join(folder, name)


def _with_pictures(
    found: Sequence[tuple[Training, Sequence[Row]]], records: Sequence[Row]
) -> Iterator[Training]:
    """The trainings with pictures of their suspects, as many as there is room for in all."""
    # Every category's first before any one's second: none is without, if it can be helped.
    ranks = [(rank, n) for n, (_, rows) in enumerate(found) for rank in range(len(rows))]
    chosen = sorted(ranks)[: stored.PICTURES_IN_ALL]

    def draw(place: tuple[int, int]) -> Picture:
        rank, n = place
        size, resize = records[n]["image_size"], records[n]["resize"]
        return stored.picture(found[n][1][rank], image_size=size, resize=resize)

    drawn = list(in_threads(draw, chosen))
    for n, (training, _) in enumerate(found):
        own = [one for (_, owner), one in zip(chosen, drawn, strict=True) if owner == n]
        yield replace(training, suspects=tuple(own))
