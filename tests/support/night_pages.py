"""A plant's nights as they come to stand: thirty profiles of earlier ones, and a last one whole.

Two categories come from two lines each, one from none. Scores, looks and pictures are drawn from
named streams; `Plant` says what is odd about the last night.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mrkd import storage
from mrkd.config import FitConfig, ModelConfig, ScoreConfig
from mrkd.model import artefact
from mrkd.model.artefact import Calibration, ModelCard, TeacherCard, checksummed_files
from mrkd.nights.drift import Profile, ProfileGroup, quantiles
from mrkd.nights.night import Night
from mrkd.nights.shards import Pin, Shard
from mrkd.storage import schema
from mrkd.training.category.calibrate import TRAINING_SCORES
from tests.support.parts import make_parts

RUN = "night-2026-11-23"
FIRST = datetime(2026, 10, 24, 2, tzinfo=UTC)
LINES = {"plate": ("L1", "L2"), "ring": ("L1", "L2"), "0012": ("",)}
TEACHER = TeacherCard("resnet18", "0123456789abcdef" * 4, random=True)
THRESHOLD = {"plate": 1.0, "ring": 2.0, "0012": 1.5}
NUM_HELD_OUT = 60
USUAL = {"brightness": (0.5, 0.03), "contrast": (0.2, 0.02), "sharpness": (0.004, 0.0006)}
"""Median and spread between the images of a night."""
IMAGE_SIZE = 64

_STAGES = ("list", "read", "decode", "score", "commit", "close")

Key = tuple[str, str]


@dataclass(frozen=True)
class Plant:
    """What a plant is like.

    Args:
        num_nights: earlier ones that left a profile.
        num_images: of each line in the last night.
        looks: factor on a measure of the last night's pictures, by category and line.
        scores: factor on the scores of good parts, likewise.
        nok_rate: share of defective parts in the last night, likewise; else 3 %.
        silent: categories and lines that sent nothing in the last night.
        tars: categories and lines whose pictures came in one tar.
        version: of the models that scored the earlier nights.
    """

    num_nights: int = 30
    num_images: int = 40
    looks: Mapping[Key, Mapping[str, float]] = field(default_factory=dict)
    scores: Mapping[Key, float] = field(default_factory=dict)
    nok_rate: Mapping[Key, float] = field(default_factory=dict)
    silent: tuple[Key, ...] = ()
    tars: tuple[Key, ...] = ()
    version: str = "v1"

    def rng(self, *names: object) -> np.random.Generator:
        """A stream of that name."""
        return np.random.default_rng([5, *map(ord, "/".join(map(str, names)))])


def write_plant(folder: Path, plant: Plant = Plant()) -> str:
    """Writes models, earlier profiles and the last night; the last night's URI."""
    workspace = storage.join(str(folder), "workspace")
    for category in LINES:
        write_model(workspace, category)
    for number in range(plant.num_nights):
        profile = earlier_profile(plant, number)
        uri = storage.join(workspace, "nights", profile.run, "profile.parquet")
        storage.write(uri, profile.to_parquet())
    return write_last_night(folder, plant)


def earlier_profile(plant: Plant, number: int) -> Profile:
    """The profile of one of the nights before."""
    at = (FIRST + timedelta(days=number)).isoformat(timespec="seconds")
    run = f"night-{at[:10]}"
    groups = tuple(
        _earlier_group(plant, run, category, line)
        for category in sorted(LINES)
        for line in LINES[category]
    )
    return Profile(run, 1, at, at, "", groups)


def _earlier_group(plant: Plant, run: str, category: str, line: str) -> ProfileGroup:
    rng = plant.rng(run, category, line)
    count = int(plant.num_images * rng.uniform(0.85, 1.15))
    num_nok = int(rng.binomial(count, 0.03))
    scores = good_scores(rng, category, count - num_nok)
    looks = {name: draw_looks(rng, name, count) for name in USUAL}
    return ProfileGroup(
        category,
        line,
        num_images=count + 1,
        num_ok=count - num_nok,
        num_nok=num_nok,
        errors={"truncated": 1},
        quantiles={name: quantiles(v) for name, v in {"image_score": scores, **looks}.items()},
        sizes={f"{IMAGE_SIZE}x{IMAGE_SIZE}": count},
        model_version=plant.version,
        calibration=1,
    )


def good_scores(
    rng: np.random.Generator, category: str, count: int, factor: float = 1.0
) -> NDArray[np.float32]:
    """Scores of good parts, below the threshold."""
    threshold = THRESHOLD[category]
    scores = rng.gamma(16, threshold / 32, count) * factor
    return np.asarray(np.minimum(scores, threshold * 0.999), np.float32)


def draw_looks(rng: np.random.Generator, name: str, count: int) -> NDArray[np.float32]:
    """A measure of so many pictures."""
    median, spread = USUAL[name]
    return np.asarray(rng.normal(median * rng.normal(1, 0.004), spread, count), np.float32)


def write_model(workspace: str, category: str, version: str = "v1") -> None:
    """A model's card, calibration and training scores, without weights."""
    rng = np.random.default_rng([6, *map(ord, category)])
    scores = np.sort(good_scores(rng, category, NUM_HELD_OUT)).astype(float)
    calibration = Calibration(
        number=1,
        threshold=THRESHOLD[category],
        pixel_threshold=THRESHOLD[category],
        false_call_rate=0.01,
        supported_false_call_rate=1 / (NUM_HELD_OUT + 1),
        scores=tuple(scores.tolist()),
        pixel_maxima=tuple(scores.tolist()),
        statistics={
            name: tuple(np.sort(draw_looks(rng, name, NUM_HELD_OUT)).astype(float).tolist())
            for name in USUAL
        },
        by="mrkd",
        why="first",
        num_groups=NUM_HELD_OUT,
    )
    card = ModelCard(
        category,
        version,
        ModelConfig(image_size=IMAGE_SIZE),
        FitConfig(),
        TEACHER,
        {},
        {},
        {},
        files={},
        code={},
    )
    rows = [
        {
            "image_uri": f"{n}.png",
            "sha256": "0" * 64,
            "side": "calibration",
            "is_suspect": False,
            "group": n,
            "fold": n % 8,
            "image_height": IMAGE_SIZE,
            "image_width": IMAGE_SIZE,
            "image_score": score,
            "is_anomalous": False,
        }
        for n, score in enumerate(scores)
    ]
    files = {
        "training_scores.parquet": schema.to_parquet(
            pa.Table.from_pylist(rows, schema=TRAINING_SCORES)
        ),
        "calibrations/1.json": checksummed_files.to_json(calibration.to_json()),
        "model.json": checksummed_files.to_json(card.to_json()),
    }
    for name, content in files.items():
        folder = artefact.folder_of(workspace, category, version)
        storage.write(storage.join(folder, name), content)


def pin(category: str) -> Pin | None:
    """Each category has a model, but for `new`."""
    return None if category == "new" else Pin("v1", 1, TEACHER.name)


def write_archive(folder: Path, plant: Plant) -> Path:
    """The last night's pictures; an empty one in each line, and one of a category without model."""
    root = folder / "archive"
    parts = make_parts(folder / "parts", categories=3, train=8, test_good=0, size=IMAGE_SIZE)
    for category, lines in LINES.items():
        good = sorted((parts / category / "train").rglob("*.png"))
        bad = sorted((parts / category / "test").rglob("*.png"))
        for line in lines:
            key = (category, line)
            if key in plant.silent:
                continue
            place = root / category / (line or "-")
            place.mkdir(parents=True)
            num_bad = round(plant.num_images * plant.nok_rate.get(key, 0.03))
            dark = plant.looks.get(key, {}).get("brightness", 1.0)
            for n in range(plant.num_images):
                name, source = ("bad", bad) if n < num_bad else ("good", good)
                picture = cv2.imread(str(source[n % len(source)]))
                dimmed = np.clip(picture * dark, 0, 255).astype(np.uint8)
                cv2.imwrite(str(place / f"{name}-{n:04}.png"), dimmed)
            (place / "zz-empty.png").touch()
            if key in plant.tars:
                _pack(place)
    (root / "new" / "L1").mkdir(parents=True)
    (root / "new" / "L1" / "odd.png").write_bytes(good[0].read_bytes())
    return root


def _pack(place: Path) -> None:
    """The pictures of a folder into one tar beside them."""
    pictures = sorted(place.glob("*.png"))
    with tarfile.open(place / "parts.tar", "w") as tar:
        for picture in pictures:
            tar.add(picture, picture.name)
            picture.unlink()


def write_last_night(folder: Path, plant: Plant, run: str = RUN) -> str:
    """Plans, scores and closes the last night; its URI."""
    workspace = storage.join(str(folder), "workspace")
    root = write_archive(folder, plant)
    config = ScoreConfig.from_dict(
        {
            "workspace": workspace,
            "run": run,
            "archive": {"uri": str(root), "template": "{category}/{line}/{name}"},
            "rows": {"shard_rows": 16},
        }
    )
    night = Night(workspace, run)
    with night.lease():
        for revision in night.revisions(config, pin):
            for shard in night.todo(revision):
                night.commit(shard, score(plant, shard))
            night.close(revision)
    storage.write_json(storage.join(night.uri, "night.json"), record(run))
    return night.uri


def score(plant: Plant, shard: Shard) -> pa.Table:
    """Rows of a shard: what `bad` names is called defective."""
    if shard.pin is None:
        return shard.without_model()
    rows = list(_rows(plant, shard))
    return schema.score_table(rows, category=shard.category, metadata={})


def _rows(plant: Plant, shard: Shard) -> Iterator[dict[str, Any]]:
    threshold = THRESHOLD[shard.category]
    for planned in shard.rows.to_pylist():
        attributes = dict(planned["attributes"])
        line = "" if attributes["line"] == "-" else attributes["line"]
        key = (shard.category, line)
        rng = plant.rng("last", planned["image_uri"].rsplit("/archive/", 1)[-1])
        columns = ("image_uri", "revision", "image_etag", "image_bytes")
        row = {name: planned[name] for name in columns} | {
            "attributes": [("line", line)] if line else [],
            "model_version": shard.pin.version,
            "calibration": shard.pin.calibration,
            "teacher": shard.pin.teacher,
        }
        if planned["image_bytes"] == 0:
            yield row | {"error_kind": "empty", "error_message": "0 bytes: copy the image again"}
            continue
        bad = "bad-" in planned["image_uri"]
        value = float(good_scores(rng, shard.category, 1, plant.scores.get(key, 1.0))[0])
        if bad:
            value = threshold * float(rng.uniform(1.05, 3))
        looks = plant.looks.get(key, {})
        region = {"x": 20, "y": 20, "width": 20, "height": 16, "area": 200, "mean": value / 2}
        yield row | {
            "image_height": IMAGE_SIZE,
            "image_width": IMAGE_SIZE,
            "image_score": value,
            "p_value": 1 / (NUM_HELD_OUT + 1) if bad else 0.5,
            "threshold": threshold,
            "is_anomalous": bad,
            "regions": [region | {"peak": value}] if bad else [],
            **{
                name: float(rng.normal(median * looks.get(name, 1.0), spread))
                for name, (median, spread) in USUAL.items()
            },
            **schema.encode_map(_map(rng, threshold, bad), "float16"),
        }


def _map(rng: np.random.Generator, threshold: float, bad: bool) -> NDArray[np.float32]:
    """Quiet ground, and of a bad part a hot spot; float32 `[64, 64]`."""
    y, x = np.mgrid[:64, :64]
    distance = (y - rng.integers(24, 40)) ** 2 + (x - rng.integers(24, 40)) ** 2
    ground = 0.3 + 0.1 * np.sin(x / 9) * np.cos(y / 7)
    return np.asarray(threshold * (ground + (2 * np.exp(-distance / 60) if bad else 0)), np.float32)


def record(run: str) -> dict[str, Any]:
    """`night.json` as a night's start leaves it."""
    start = {
        "revision": 1,
        "started_at": "2026-11-23T02:00:00+00:00",
        "finished_at": "2026-11-23T02:06:30+00:00",
        "images": 206,
        "images_per_s": 41.3,
        "seconds": dict(zip(_STAGES, (1.2, 61.0, 88.4, 301.9, 12.5, 0.8), strict=True)),
        "requests": {"GET": 230, "PUT": 17, "HEAD": 3, "LIST": 4, "retried": 2, "slowed": 1},
        "peak_rss_bytes": 3_456_789_012,
        "attempts": 1,
    }
    return {"schema": 1, "run": run, "workspace": "w", "config": {}, "starts": [start]}
