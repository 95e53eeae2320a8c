"""Reader of a night's folder, its models and the nights before for the night's page.

Nothing is scored again. A file that cannot be read is named in a line on the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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
from mrkd.nights.drift import CalibrationImages, Compared, Earlier, Lights, Profile
from mrkd.nights.manifest import open_night, passed_over_line, read_manifests, readable
from mrkd.nights.reviews.error_rates import Reviewed, estimate
from mrkd.nights.shards import NO_CATEGORY, Pin
from mrkd.reports.kit.values import Row, ScoredImage
from mrkd.reports.night import records as night_records
from mrkd.reports.night import rows as night_rows
from mrkd.reports.night.picture import ModelFiles, drawn, read_model
from mrkd.reports.night.rows import Chosen, ErrorKind
from mrkd.storage.thread_map import in_threads

RECORD = "_MANIFEST.json"

_UNREADABLE = (StorageError, ArtefactError, ConfigError)


@dataclass(frozen=True)
class ScoringModel:
    """The model that scored a category, as far as its files can be read.

    Args:
        pin: version and calibration; None without a model.
        card: its card; None with a `gap`.
        calibration: its calibration; None with a `gap`.
        gap: the reason why card and calibration are None, one line; else empty.
        sizes: number of its calibration images by "HxW"; empty where they are not stored.
    """

    pin: Pin | None = None
    card: ModelCard | None = None
    calibration: Calibration | None = None
    gap: str = ""
    sizes: Mapping[str, int] | None = None

    @property
    def reference(self) -> CalibrationImages | None:
        """Its calibration images."""
        calibration = self.calibration
        return CalibrationImages.of(calibration, self.sizes or {}) if calibration else None


@dataclass(frozen=True)
class ShownImage:
    """An image of the night as a card shows it.

    Args:
        image: the scored image.
        category: its category.
        margin: score less threshold, in spreads of the category's good parts.
    """

    image: ScoredImage
    category: str
    margin: float

    @property
    def line(self) -> str:
        """The line that it came from; empty where there are none."""
        return str(dict(self.image.row["attributes"] or ()).get("line", ""))


@dataclass(frozen=True)
class NightData:
    """Everything the page of a night shows.

    Args:
        profile: profile of its newest revision.
        before: the nights before it, as far as they left a profile.
        config: the resolved config.
        compared: every category and line, against the nights before.
        lights: lights of the categories and lines that sent images.
        models: the model of every category, sorted by name.
        highest: called defective, each category's furthest above its threshold first.
        borderline: the nearest to their threshold.
        audit: good ones drawn at random.
        errors: errors by kind, the most frequent first.
        starts: entries of `night.json`; empty where the night left no record.
        parts: `counts` of OK, NOK and ERROR parts by category, the number of parts that lack a view
            (`missing`), and the first that are not good (`shown`, rows of `part_verdicts.PARTS`);
            None where images name no parts.
        golden: state, force, images and categories `without` of `golden.json`; None without
            reference parts.
        num_degraded: scored images without a map, as the night was late.
        passed_over: files of the archive that are neither images nor tars, in one line.
        reviewed: verdicts of persons on its images, by category; empty: nothing yet.
        gaps: one line for each file that could not be read.
    """

    profile: Profile
    before: Earlier
    config: Row
    compared: Sequence[Compared]
    lights: Mapping[tuple[str, str], Lights]
    models: Mapping[str, ScoringModel]
    highest: Sequence[ShownImage]
    borderline: Sequence[ShownImage]
    audit: Sequence[ShownImage]
    errors: Sequence[ErrorKind]
    starts: Sequence[Row] = ()
    parts: Row | None = None
    golden: Row | None = None
    num_degraded: int = 0
    passed_over: str = ""
    reviewed: Sequence[Reviewed] = ()
    gaps: Sequence[str] = ()


def load_night_data(night_uri: str) -> NightData:
    """Everything that the page of a night shows, of its closed revisions.

    A profile is stored in the night's folder if it holds none of its newest revision.

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
    profile = drift.current(night_uri)
    before = drift.earlier(workspace, profile)
    pins: dict[str, Pin | None] = {}
    for manifest in manifests:
        pins |= {name: pin or pins.get(name) for name, pin in manifest.pins.items()}
    models = dict(
        zip(sorted(pins), in_threads(partial(_model, workspace), sorted(pins.items())), strict=True)
    )
    references = {name: model.reference for name, model in models.items()}
    compared = drift.compare(profile, before.profiles)
    tars = tuple(config.get("archive", {}).get("tars", ()))
    with readable(night_uri):
        choice = night_rows.choose(
            rows,
            spreads=_spreads(references, profile),
            num_ok=sum(group.num_ok for group in profile.groups),
            run=profile.run,
        )
        kinds = (choice.highest, choice.borderline, choice.audit)
        chosen = [one for kind in kinds for one in kind]
        shown = _shown(night_uri, rows.schema, chosen, models, tars)
    highest, borderline, audit = ([shown[one] for one in kind if one in shown] for kind in kinds)
    gaps: list[str] = []
    records = night_records.load(night_uri, gaps)
    versions = {name: pin.version for name, pin in pins.items() if pin}
    reviewed: list[Reviewed] = []
    try:
        reviewed = estimate(workspace, {profile.run: manifests}, versions)
    except _UNREADABLE as error:
        gaps.append(str(error))
    return NightData(
        profile,
        before,
        config,
        compared,
        lights={
            row.tonight.key: drift.judge(row.tonight, references.get(row.category), row.before)
            for row in compared
            if row.tonight is not None
        },
        models=models,
        highest=highest,
        borderline=borderline,
        audit=audit,
        errors=choice.errors,
        **records,
        num_degraded=sum(manifest.num_degraded for manifest in manifests),
        passed_over=passed_over_line(manifests[-1].passed_over),
        reviewed=reviewed,
        gaps=gaps,
    )


def _model(workspace: str, pinned: tuple[str, Pin | None]) -> ScoringModel:
    category, pin = pinned
    if pin is None:
        reason = "it had no model: its images were not scored"
        if category == UNMATCHED:
            reason = NO_CATEGORY.format("the keys of its images")
        return ScoringModel(gap=reason)
    files = read_model(workspace, category, pin.version, pin.calibration)
    sizes = None if files.gap else _held_out_sizes(workspace, category, pin.version)
    return ScoringModel(pin, *files, sizes)


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


def _spreads(
    references: Mapping[str, CalibrationImages | None], profile: Profile
) -> dict[str, float]:
    """Spread of the scores of each category's good parts; of held-out ones, or tonight's."""
    found: dict[str, float] = {}
    for group in profile.groups:
        scores = (references.get(group.category) or group).quantiles.get("image_score")
        if group.category not in found and scores is not None:
            found[group.category] = max(float(scores[15] - scores[5]) / 1.349, 1e-9)
    return found


def _shown(
    night_uri: str,
    columns: pa.Schema,
    chosen: Sequence[Chosen],
    models: Mapping[str, ScoringModel],
    tars: Sequence[str],
) -> dict[Chosen, ShownImage]:
    """The chosen rows as cards, with their images as far as these are what was scored."""
    rows = night_rows.read_rows(chosen, columns)
    data = dict(read_images(night_uri, rows.values(), tars))

    def draw(one: Chosen) -> ShownImage:
        model = models.get(one.category) or ScoringModel()
        image = drawn(rows[one.image_uri], ModelFiles(model.card, model.calibration), data)
        return ShownImage(image, one.category, one.margin)

    found = [one for one in dict.fromkeys(chosen) if one.image_uri in rows]
    return dict(zip(found, in_threads(draw, found), strict=True))
