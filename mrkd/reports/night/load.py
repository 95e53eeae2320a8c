"""What the page of a night shows, read from its folder, its models and the nights before.

Nothing is scored again. A file that cannot be read leaves a line in its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from mrkd import storage
from mrkd.errors import ArtefactError, ConfigError, StorageError
from mrkd.model import artefact
from mrkd.model.artefact import Calibration, ModelCard
from mrkd.nights import drift
from mrkd.nights.archive import UNMATCHED
from mrkd.nights.archived_images import read_images
from mrkd.nights.drift import CalibrationImages, Lights, Profile
from mrkd.nights.manifest import Manifest, open_night, read_manifests, readable
from mrkd.nights.reviews.error_rates import Reviewed, estimate
from mrkd.nights.shards import Pin
from mrkd.reports.kit.values import Model
from mrkd.reports.night import records as night_records
from mrkd.reports.night import rows as night_rows
from mrkd.reports.night.picture import drawn
from mrkd.reports.night.rows import Chosen, Row
from mrkd.reports.night.values import NightData, Scoring, ShownImage
from mrkd.storage.thread_map import in_threads

RECORD = "_MANIFEST.json"

_UNREADABLE = (StorageError, ArtefactError, ConfigError)


@dataclass(frozen=True)
class _Model:
    """A model that scored a category, as far as its files can be read."""

    pin: Pin | None
    card: ModelCard | None = None
    calibration: Calibration | None = None
    sizes: Mapping[str, int] | None = None
    gap: str = ""

    @property
    def reference(self) -> CalibrationImages | None:
        """Its calibration images."""
        calibration = self.calibration
        return CalibrationImages.of(calibration, self.sizes or {}) if calibration else None


def load_night_data(night_uri: str) -> NightData:
    """Everything that the page of a night shows, of its closed revisions.

    A profile is stored in the night's folder if none of its newest revision stands there.

    Args:
        night_uri: `<workspace>/nights/<run>`.

    Raises:
        NightError: no revision is closed.
        StorageError: the night's rows cannot be read.
        ArtefactError: a manifest is damaged.
    """
    night_uri = storage.join(night_uri)
    # Not the workspace that a config names: it may be relative, or have been moved since.
    workspace = night_uri.rsplit("/", 2)[0]
    with readable(night_uri):
        rows = open_night(night_uri)
    manifests = read_manifests(night_uri)
    config = manifests[-1].config
    archive = config.get("archive", {})
    profile = drift.current(night_uri)
    before = drift.earlier(workspace, profile)
    pins: dict[str, Pin | None] = {}
    for manifest in manifests:
        pins |= {name: pin or pins.get(name) for name, pin in manifest.pins.items()}
    models = dict(
        zip(sorted(pins), in_threads(partial(_model, workspace), sorted(pins.items())), strict=True)
    )
    compared = drift.compare(profile, before.profiles)
    tars = tuple(archive.get("tars", ()))
    with readable(night_uri):
        choice = night_rows.choose(
            rows,
            spreads=_spreads(models, profile),
            num_ok=sum(group.num_ok for group in profile.groups),
            run=profile.run,
        )
        kinds = (choice.highest, choice.borderline, choice.audit)
        chosen = [one for kind in kinds for one in kind]
        shown = _shown(night_uri, rows.schema, chosen, models, tars)
    pictures = [tuple(shown[one] for one in kind if one in shown) for kind in kinds]
    records = night_records.load(night_uri)
    versions = {name: pin.version for name, pin in pins.items() if pin}
    reviewed, more_gaps = _reviewed(workspace, profile.run, manifests, versions)
    return NightData(
        run=profile.run,
        workspace=workspace,
        archive=archive.get("manifest") or archive.get("uri", ""),
        closed_at=profile.closed_at,
        revisions=profile.revision,
        max_error_share=config.get("max_error_share", 0.0),
        compared=tuple(compared),
        lights=_lights(compared, models),
        nights=tuple((night.run, night.began_at) for night in before.profiles),
        without_profile=before.without,
        scorings=tuple(_scoring(name, model) for name, model in models.items()),
        highest=pictures[0],
        borderline=pictures[1],
        audit=pictures[2],
        errors=choice.errors,
        starts=records.starts,
        parts=records.parts,
        golden=records.golden,
        gaps=records.gaps + more_gaps,
        reviewed=reviewed,
        num_degraded=sum(manifest.num_degraded for manifest in manifests),
        config=config,
    )


def _reviewed(
    workspace: str, run: str, manifests: Sequence[Manifest], versions: Mapping[str, str]
) -> tuple[tuple[Reviewed, ...], tuple[str, ...]]:
    """What people say of the night, and why that cannot be told."""
    try:
        return tuple(estimate(workspace, {run: manifests}, versions)), ()
    except _UNREADABLE as error:
        return (), (str(error),)


def _model(workspace: str, pinned: tuple[str, Pin | None]) -> _Model:
    category, pin = pinned
    if pin is None:
        reason = "it had no model: its images were not scored"
        if category == UNMATCHED:
            reason = "archive.template finds no category in the keys of its images"
        return _Model(None, gap=reason)
    try:
        card = artefact.read_card(workspace, category, pin.version)
        calibration = artefact.read_calibration(workspace, category, pin.version, pin.calibration)
    except _UNREADABLE as error:
        return _Model(pin, gap=str(error))
    return _Model(pin, card, calibration, _held_out_sizes(workspace, category, pin.version))


def _held_out_sizes(workspace: str, category: str, version: str) -> dict[str, int]:
    """Sizes of the calibration's images; none where they are not stored."""
    folder = artefact.folder_of(workspace, category, version)
    filesystem, path = storage.open_uri(storage.join(folder, "training_scores.parquet"))
    columns = ["image_height", "image_width"]
    try:
        table = ds.dataset(path, filesystem=filesystem, format="parquet").to_table(
            columns=columns, filter=pc.field("side") == "calibration"
        )
    except (OSError, pa.ArrowException):
        return {}
    height, width = (table[name].to_pylist() for name in columns)
    return Counter(f"{h}x{w}" for h, w in zip(height, width, strict=True))


def _spreads(models: Mapping[str, _Model], profile: Profile) -> dict[str, float]:
    """How far the scores of each category's good parts lie apart; held-out ones, or tonight's."""
    found: dict[str, float] = {}
    for group in profile.groups:
        model = models.get(group.category)
        reference = model.reference if model else None
        scores = (reference or group).quantiles.get("image_score")
        if group.category not in found and scores is not None:
            found[group.category] = max(float(scores[15] - scores[5]) / 1.349, 1e-9)
    return found


def _lights(
    compared: Iterable[drift.Compared], models: Mapping[str, _Model]
) -> dict[tuple[str, str], Lights]:
    references = {name: model.reference for name, model in models.items()}
    return {
        row.tonight.key: drift.judge(row.tonight, references.get(row.category), row.before)
        for row in compared
        if row.tonight is not None
    }


def _scoring(category: str, model: _Model) -> Scoring:
    pin, card, calibration = model.pin, model.card, model.calibration
    if pin is None or card is None or calibration is None:
        return Scoring(category, None, model.gap)
    return Scoring(
        category,
        Model(
            model_version=pin.version,
            calibration=pin.calibration,
            teacher=card.teacher.name,
            threshold=calibration.threshold,
            pixel_threshold=calibration.pixel_threshold,
            false_call_rate=calibration.false_call_rate,
            supported_false_call_rate=calibration.supported_false_call_rate,
            num_held_out=len(calibration.scores),
            warning=calibration.warning,
        ),
    )


def _shown(
    night_uri: str,
    columns: pa.Schema,
    chosen: Sequence[Chosen],
    models: Mapping[str, _Model],
    tars: Sequence[str],
) -> dict[Chosen, ShownImage]:
    """The chosen rows as cards, with their pictures as far as these are what was scored."""
    rows = night_rows.read_rows(chosen, columns)
    data = dict(read_images(night_uri, rows.values(), tars))

    def draw(one: Chosen) -> ShownImage:
        return _card(one, rows[one.image_uri], models.get(one.category), data)

    found = [one for one in dict.fromkeys(chosen) if one.image_uri in rows]
    return dict(zip(found, in_threads(draw, found), strict=True))


def _card(one: Chosen, row: Row, model: _Model | None, data: Mapping[str, bytes]) -> ShownImage:
    card, calibration = (model.card, model.calibration) if model else (None, None)
    picture, pixel_threshold = drawn(row, card, calibration, data)
    return ShownImage(
        picture,
        category=one.category,
        line=dict(row["attributes"] or ()).get("line", ""),
        threshold=row["threshold"],
        pixel_threshold=pixel_threshold,
        margin=one.margin,
    )
