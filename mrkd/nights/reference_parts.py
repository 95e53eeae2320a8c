"""Reference parts, photographed before each night: has a lens, a lamp or a camera changed?

    golden/<category>/<version>-<calibration>-<label>.json   scores as first seen; never changed
    nights/<run>/golden.json                                 what the night's start found

Good parts must score as good and defective ones as defective, and both as they did when the model
first saw them. What is judged is how images are taken: the parts are always the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np

from mrkd import storage
from mrkd.config import RowsConfig, ScoreConfig
from mrkd.data.images import DecodeLimits
from mrkd.data.preprocess import Decoded, Preprocessor, ahead_of
from mrkd.errors import ArtefactError, ConfigError, GoldenError, StorageError
from mrkd.model import artefact
from mrkd.nights.archive import UNMATCHED, Template
from mrkd.nights.drift.distances import robust_spread
from mrkd.nights.shards import Pin
from mrkd.run_summary import now
from mrkd.storage.thread_map import in_threads

log = logging.getLogger(__name__)

RECORD = "golden.json"
GOLDEN_VERSION = 1

Label = Literal["good", "bad"]
LABELS: tuple[Label, ...] = ("good", "bad")

_SHOWN = 3
_NO_MAPS = RowsConfig(map="none", max_regions=0)


@dataclass(frozen=True)
class ReferencePart:
    """One image of a reference part."""

    image_uri: str
    category: str
    label: Label


@dataclass(frozen=True)
class ScoreRange:
    """The scores of a category's good or bad reference parts when its model first saw them.

    Args:
        low: the least.
        high: the greatest.
        spread: robust standard deviation of the model's held-out scores.
        num_images: number of images behind it.
        run: name of the night that set it.
        at: time when it was set, UTC, ISO 8601.
    """

    low: float
    high: float
    spread: float
    num_images: int
    run: str
    at: str

    def limits(self, tolerance: float) -> tuple[float, float]:
        """Where a score may lie, ends included."""
        return self.low - tolerance * self.spread, self.high + tolerance * self.spread


ScoreParts = Callable[
    [Mapping[str, tuple[ScoreConfig, str, Pin, Sequence[ReferencePart]]]],
    Mapping[str, Sequence[Mapping[str, Any]]],
]
"""Makes the calls of `score_parts` with the arguments of each category; their rows by category."""


def check(config: ScoreConfig, pins: Mapping[str, Pin | None], score_each: ScoreParts) -> list[str]:
    """Scores the golden set by a night's models and compares the scores with their first ones.

    The first time that a model sees the good, or the bad, parts of its category as what they are,
    their scores become its band. What was found is stored in `golden.json`, whatever it is.

    Args:
        config: config of the run; without `golden.uri` there is nothing to check.
        pins: the model of each category of the night; the others' reference parts are left out.
        score_each: function that scores the parts on the device that scores the night.

    Returns:
        What is wrong, one line for each image, where `config.force` lets the night go on; else
        nothing.

    Raises:
        ConfigError: `golden.uri` holds no golden set, or a key in it gives no label.
        GoldenError: something is wrong, and the night is not forced.
        ArtefactError: a model or a band is damaged.
        StorageError: the workspace or the golden set cannot be listed.
    """
    if not config.golden.uri:
        return []
    references = list_references(config)
    calls: dict[str, tuple[ScoreConfig, str, Pin, Sequence[ReferencePart]]] = {}
    for category, pin in sorted(pins.items()):
        own = [one for one in references if one.category == category]
        if own and pin is not None:
            calls[category] = config, category, pin, own
    rows = score_each(calls) if calls else {}
    found: list[dict[str, Any]] = []
    for category, (_, _, model, parts) in calls.items():
        found += _check_category(config, category, model, parts, rows[category])
    problems = [
        f"{row['image_uri']} ({row['label']}) {row['problem']}" for row in found if row["problem"]
    ]
    uri = storage.join(config.workspace, "nights", config.run, RECORD)
    earlier = storage.read_json(uri) if storage.exists(uri) else {"images": [], "without": []}
    # Of categories that only earlier revisions had; those went on, whatever was wrong.
    kept = [row for row in earlier["images"] if row["category"] not in pins]
    forced = any(row["problem"] for row in kept) or (bool(problems) and config.force)
    images = sorted(kept + found, key=lambda row: row["category"])
    known = {one.category for one in references}
    record = {
        "schema": GOLDEN_VERSION,
        "run": config.run,
        "at": now(),
        "uri": config.golden.uri,
        "tolerance": config.golden.tolerance,
        "state": "failed" if any(row["problem"] for row in images) else "passed",
        "forced": forced,
        "images": images,
        "without": sorted((pins.keys() | set(earlier["without"])) - known - {UNMATCHED}),
        "unused": sorted(known - {row["category"] for row in images}),
    }
    storage.write_json(uri, record)
    log.info("golden images=%d problems=%d uri=%s", len(found), len(problems), uri)
    if problems and not config.force:
        raise GoldenError(
            f"{len(problems)} of {len(found)} golden images are off, the lens, the lamp or the "
            f"camera may have changed: {'; '.join(problems[:_SHOWN])}; all are in {uri}. Look "
            "at them; --force scores nevertheless, and a change that is meant needs its band "
            f"below {storage.join(config.workspace, 'golden')} deleted"
        )
    return problems


def list_references(config: ScoreConfig) -> list[ReferencePart]:
    """The images of the golden set, by URI.

    Raises:
        ConfigError: there is none at `golden.uri`, or a key in it gives no category or label.
        StorageError: it cannot be listed.
    """
    golden = config.golden
    template, root = Template(golden.template, "golden.template"), storage.join(golden.uri) + "/"
    files = storage.list_files(golden.uri, suffixes=config.archive.suffixes)
    if not files:
        raise ConfigError(
            f"golden.uri is {golden.uri!r}: it holds no file that ends in "
            f"{', '.join(config.archive.suffixes)}"
        )
    found = []
    for file in files:
        category, attributes = template.parse(file.uri.removeprefix(root))
        label = next((one for one in LABELS if one == attributes.get("label")), None)
        if category == UNMATCHED or label is None:
            raise ConfigError(
                f"golden.template is {golden.template!r}: {file.uri} gives "
                f"{'no category' if category == UNMATCHED else 'neither good nor bad as label'}; "
                "move the file or correct the template"
            )
        found.append(ReferencePart(file.uri, category, label))
    return found


def _check_category(
    config: ScoreConfig,
    category: str,
    pin: Pin,
    references: Sequence[ReferencePart],
    rows: Sequence[Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:
    """The reference parts of one category, each with its score and what is wrong with it."""
    calibration = artefact.read_calibration(
        config.workspace, category, pin.version, pin.calibration
    )
    for label in LABELS:
        own = [row for one, row in zip(references, rows, strict=True) if one.label == label]
        problems = [_wrong_side(row, label) for row in own]
        name = f"{pin.version}-{pin.calibration}-{label}.json"
        uri = storage.join(config.workspace, "golden", category, name)
        band = _band(uri)
        if band is None and own and not any(problems):
            scores = [row["image_score"] for row in own]
            deviation = spread(calibration.scores)
            first = ScoreRange(min(scores), max(scores), deviation, len(own), config.run, now())
            named = {"category": category, **asdict(pin), "label": label}
            band = _first_seen(uri, first, named)
        limits = band.limits(config.golden.tolerance) if band else (None, None)
        for row, problem in zip(own, problems, strict=True):
            yield {
                "category": category,
                "label": label,
                "image_uri": row["image_uri"],
                "model_version": pin.version,
                "calibration": pin.calibration,
                "threshold": calibration.threshold,
                "image_score": row.get("image_score"),
                "low": limits[0],
                "high": limits[1],
                "problem": problem or _outside(row, band, config.golden.tolerance),
            }


def score_parts(
    config: ScoreConfig, category: str, pin: Pin, references: Sequence[ReferencePart]
) -> list[dict[str, Any]]:
    """A night's row for each reference part of a category, in order; called in a worker.

    What cannot be read is an error row.

    Raises:
        ArtefactError: the model is damaged.
    """
    # Not above: it loads torch, and the driver does without.
    from mrkd.model.inference import Scorer

    scorer = Scorer(config.workspace, config.pool)
    card = artefact.read_card(config.workspace, category, pin.version)
    decoder = Preprocessor.of(card.model, DecodeLimits.of(config.archive))

    def read(reference: ReferencePart) -> Decoded:
        uri = reference.image_uri
        try:
            data, etag = storage.fetch(uri, max_bytes=config.archive.max_bytes)
        except StorageError as error:
            return Decoded(uri, error_kind=error.kind, error_message=str(error))
        return decoder(uri, data, etag=etag)

    rows: list[dict[str, Any]] = []
    queue, ahead = iter(references), ahead_of(decoder)
    while chunk := list(islice(queue, ahead)):
        rows += scorer.score(
            list(in_threads(read, chunk)),
            category=category,
            version=pin.version,
            calibration=pin.calibration,
            rows=_NO_MAPS,
        )
    return rows


def _wrong_side(row: Mapping[str, Any], label: Label) -> str:
    """What is wrong with an image by the threshold alone; empty: nothing."""
    if row.get("error_kind"):
        return f"has no score: {row['error_message']}"
    score, threshold = row["image_score"], row["threshold"]
    if row["is_anomalous"] == (label == "bad"):
        return ""
    where = "above" if row["is_anomalous"] else "not above"
    return f"scores {score:.4g}, {where} the threshold {threshold:.4g}"


def _outside(row: Mapping[str, Any], band: ScoreRange | None, tolerance: float) -> str:
    """What is wrong with an image on the right side of the threshold; empty: nothing."""
    if band is None:
        return ""
    low, high = band.limits(tolerance)
    if low <= row["image_score"] <= high:
        return ""
    return f"scores {row['image_score']:.4g}, outside {low:.4g} to {high:.4g} (set by {band.run})"


def _band(uri: str) -> ScoreRange | None:
    """The stored band; None where the model has not seen these parts as what they are yet."""
    if storage.stat(uri) is None:
        return None
    try:
        content = storage.read_json(uri)
        numbers = {name: float(content[name]) for name in ("low", "high", "spread")}
        return ScoreRange(
            **{name: content[name] for name in ScoreRange.__dataclass_fields__} | numbers
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactError(
            f"{uri} is not a golden set's band ({error!r}): delete it, and the next night sets it"
        ) from error


def _first_seen(uri: str, band: ScoreRange, named: Mapping[str, Any]) -> ScoreRange | None:
    """Stores a band, with what names it; where another night was faster, its band."""
    content = {"schema": GOLDEN_VERSION, **named, **asdict(band)}
    if storage.write_json(uri, content, if_absent=True):
        log.info("golden_band uri=%s low=%g high=%g", uri, band.low, band.high)
        return band
    return _band(uri)


def spread(scores: Sequence[float]) -> float:
    """A robust standard deviation of scores; the plain one where half of them are equal."""
    values = np.asarray(scores, np.float64)
    return robust_spread(values) or float(values.std())
