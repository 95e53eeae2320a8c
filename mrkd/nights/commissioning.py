"""Thresholds from the line itself: from a night's stored scores instead of the training's.

Nothing learnt from old images knows how tomorrow's line differs. So the first parts of a line set
a model's threshold: those that reviewers call good or, where nobody has looked, the whole night,
by its median and spread, as most of it is good. The scores of the new calibration are the line's,
its statistics too; what it was made from is written in it.

A newer model has scores of its own scale. The same night's images, scored by it, give it a
calibration by the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from mrkd import storage
from mrkd.data.datasets.sample import place_of
from mrkd.data.images import STATISTICS, Statistics
from mrkd.data.preprocess import Preprocessor
from mrkd.errors import NightError
from mrkd.model import inference
from mrkd.model.artefact import Calibration
from mrkd.model.artefact.save_load import LoadedModel
from mrkd.model.calibration import calibrate
from mrkd.model.good_ranges import look_of_row, merged
from mrkd.nights import archived_images
from mrkd.nights.drift.distances import robust_spread
from mrkd.nights.manifest import DECISION, category_rows, read_manifests
from mrkd.nights.reviews import store as record

How = Literal["verdicts", "median"]

MIN_GOOD = 4
"""Good parts of the line that a calibration is made from at least."""
MIN_SEEN = 0.5
"""Share of a night that must have verdicts, for these to represent the whole night."""
_LEAST_READ = 0.5
_MOST_CALLED = 0.5

_COLUMNS = (
    *("image_etag", "image_bytes", "image_height", "image_width", "revision"),
    *("map_max", "regions", *STATISTICS, *DECISION),
)


@dataclass(frozen=True)
class Line:
    """Scored images of a category in a night.

    Args:
        run: name of the night.
        uris: URIs of the images.
        scores: float64 `[N]`.
        peaks: float64 `[N]`, the highest value of each map; NaN where no map is stored.
        statistics: brightness, contrast and sharpness of each image.
        looks: look of each image, see `good_ranges.look_of_row`.
        good: bool `[N]`, whether its verdict is good.
        seen: bool `[N]`, whether it has a verdict.
    """

    run: str
    uris: Sequence[str]
    scores: NDArray[np.float64]
    peaks: NDArray[np.float64]
    statistics: Sequence[Statistics]
    looks: Sequence[Mapping[str, float]]
    good: NDArray[np.bool_]
    seen: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.uris)

    @property
    def usual(self) -> How:
        """By verdicts, if enough of it has one."""
        enough = self.good.sum() >= MIN_GOOD and self.seen.mean() >= MIN_SEEN
        return "verdicts" if enough else "median"


@dataclass(frozen=True)
class Basis:
    """What a calibration of the line was made from; stored in it.

    Args:
        run: name of the night.
        how: `verdicts`, or `median` for median and spread.
        num_images: number of images that it was made from.
        defect_rate: share of the night's images, the highest, that were taken for defective and
            left out; 0 by verdicts.
    """

    run: str
    how: How
    num_images: int
    defect_rate: float


def read_line(workspace: str, run: str, category: str, version: str | None = None) -> Line:
    """A category's images in a night, as `version` scored them; None: any, of mixed scales.

    Raises:
        NightError: the night is not closed, or has no such rows.
        ArtefactError: an import of verdicts is damaged.
        StorageError: the night cannot be read.
    """
    rows = _rows(workspace, run, category)
    own = [row for row in rows if version in (None, row["model_version"])]
    if not own:
        raise NightError(
            f"night {run!r} has no image of {category!r} that version {version} scored: name a "
            "night of this model"
        )
    return _line(run, own, _verdicts(workspace))


def _verdicts(workspace: str) -> dict[tuple[str, str], str]:
    """The verdict on each image, by its URI and etag."""
    return {one.key: one.verdict for one in record.read(workspace)}


def _rows(workspace: str, run: str, category: str) -> list[dict[str, Any]]:
    table = category_rows(storage.join(workspace, "nights", run), category, _COLUMNS)
    found: list[dict[str, Any]] = table.filter(pc.is_null(table["error_kind"])).to_pylist()
    return sorted(found, key=lambda row: str(row["image_uri"]))


def _line(
    run: str, rows: Sequence[Mapping[str, Any]], verdicts: Mapping[tuple[str, str], str]
) -> Line:
    words = [verdicts.get((row["image_uri"], row["image_etag"] or "")) for row in rows]
    return Line(
        run=run,
        uris=[row["image_uri"] for row in rows],
        scores=np.array([row["image_score"] for row in rows], np.float64),
        peaks=np.array([_peak(row) for row in rows], np.float64),
        statistics=[Statistics(*(row[name] for name in STATISTICS)) for row in rows],
        looks=[look_of_row(row) for row in rows],
        good=np.array([word == "OK" for word in words], bool),
        seen=np.array([word is not None for word in words], bool),
    )


def _peak(row: Mapping[str, Any]) -> float:
    """The map's maximum: of its highest region, exactly, or else of the map as it is stored."""
    regions = [float(region["peak"]) for region in row["regions"] or ()]
    return max(regions) if regions else float(np.nan if row["map_max"] is None else row["map_max"])


def commission(
    calibration: Calibration,
    line: Line,
    *,
    how: How,
    false_call_rate: float,
    defect_rate: float,
) -> Calibration:
    """A model's calibration by a line's images.

    Args:
        calibration: the model's own.
        line: images as that model scored them.
        how: `verdicts` takes the images that reviewers call good; `median` moves and stretches the
            model's own calibrating scores to the line's median and spread.
        false_call_rate: share of good parts that may be called defective.
        defect_rate: for `median`, the share of the line that is taken for defective.

    Raises:
        CategoryError: a score is not finite.
        NightError: there are too few good images.
    """
    if how == "verdicts":
        kept = np.flatnonzero(line.good)
        scores, peaks, num_groups = line.scores[kept], line.peaks[kept], len(kept)
    else:
        number = len(line) - int(np.ceil(defect_rate * len(line)))
        kept = np.argsort(line.scores, kind="stable")[:number]
        scores = _moved(calibration.scores, line.scores[kept])
        peaks = _moved(calibration.pixel_maxima, line.peaks[kept])
        num_groups = min(calibration.num_groups, len(kept))
    if len(kept) < MIN_GOOD:
        raise NightError(
            f"night {line.run!r} has {len(kept)} images of it that are taken for good"
            f"{' by reviewers' if how == 'verdicts' else ''}, at least {MIN_GOOD} are needed: "
            "import verdicts (mrkd review import), or take a longer night"
        )
    found = calibrate(
        scores,
        np.where(np.isfinite(peaks), peaks, calibration.pixel_threshold),
        [line.statistics[n] for n in kept.tolist()],
        false_call_rate=false_call_rate,
        num_groups=num_groups,
        looks=[line.looks[n] for n in kept.tolist()],
    )
    # A line's images may look otherwise than the training's, which stay good. Rows hold neither
    # tones nor means of maps, which then have no range.
    found = replace(found, ranges=merged(calibration.ranges, found.ranges))
    if found.pixel_threshold <= calibration.pixel_threshold:
        # Rows without a region tell of no peak but that it lies below: regions stay as they are.
        found = replace(
            found,
            pixel_threshold=calibration.pixel_threshold,
            pixel_maxima=calibration.pixel_maxima,
        )
    own_rate = 0.0 if how == "verdicts" else defect_rate
    return replace(found, line=asdict(Basis(line.run, how, len(kept), own_rate)))


def _moved(own: Sequence[float], line: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values moved and stretched to median and spread of others."""
    values = np.array(own)
    stretch = robust_spread(line) / max(robust_spread(values), 1e-9)
    return (values - float(np.median(values))) * stretch + float(np.median(line))


def carry_over(
    workspace: str, category: str, before: Calibration, loaded: LoadedModel, *, max_images: int
) -> Calibration:
    """A new model's calibration by the night that set the one before it.

    The champion's calibration `before` has a `line`, and the new model `loaded` is on the device to
    score on. At most `max_images` are scored, chosen by the hash of their URIs.

    Raises:
        NightError: the night is gone, or too few of its images can still be read.
        ArtefactError: an import of verdicts is damaged.
        StorageError: the night cannot be read.
    """
    assert before.line is not None
    basis = Basis(**before.line)
    if before.false_call_rate > _MOST_CALLED:
        raise NightError(
            f"it calls {before.false_call_rate:.0%} of the good images it was made from defective"
        )
    rows = _rows(workspace, basis.run, category)
    verdicts = _verdicts(workspace)
    line = _line(basis.run, rows, verdicts)
    wanted = rows if basis.how == "median" else compress(rows, line.good)
    wanted = sorted(wanted, key=lambda row: place_of(row["image_uri"]))[:max_images]
    scored = _scored(workspace, basis.run, wanted, loaded)
    if len(scored) < max(MIN_GOOD, _LEAST_READ * len(wanted)):
        raise NightError(
            f"of {len(wanted)} images of night {basis.run!r} {len(scored)} can still be read as "
            "they were scored"
        )
    return commission(
        loaded.calibration,
        _line(basis.run, scored, verdicts),
        how=basis.how,
        false_call_rate=before.false_call_rate,
        defect_rate=basis.defect_rate,
    )


def _scored(
    workspace: str, run: str, rows: Sequence[dict[str, Any]], loaded: LoadedModel
) -> list[dict[str, Any]]:
    """The rows as another model has them, of the images that still are what was scored."""
    night_uri = storage.join(workspace, "nights", run)
    tars = {suffix for one in read_manifests(night_uri) for suffix in one.tars}
    by_uri = {row["image_uri"]: row for row in rows}
    decoder = Preprocessor.of(loaded.card.model)
    found = archived_images.read_images(night_uri, rows, sorted(tars))
    decoded = (inference.within(loaded.model.roi, decoder(uri, data)) for uri, data in found)
    usable = (image for image in decoded if image.error_kind is None)
    return [
        by_uri[one.decoded.image_uri]
        | {"image_score": one.image_score, "map_max": one.peak, "regions": []}
        for one in inference.score_images(loaded.model, usable)
    ]
