"""A fleet's folder as `mrkd train` leaves it, of drawn parts, made-up losses and scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mrkd import storage
from mrkd.config import DataConfig, TrainConfig
from mrkd.model import artefact
from mrkd.model.artefact import Calibration, ModelCard, TeacherCard, checksummed_files
from mrkd.storage import schema
from mrkd.training.category.calibrate import TRAINING_SCORES
from mrkd.training.category.result import CategoryResult
from mrkd.training.fleet_store import Fleet
from tests.support.parts import make_parts

KINDS = {
    "plate": "first",
    "ring": "held",
    "0012": "up_to_date",
    "gear": "passed",
    "cap": "failed",
    "nut": "not_started",
}
VERSION = "3f1c9a77d2e05b18"
CHAMPION = "a0b1c2d3e4f50617"
THRESHOLD = 1.0
NUM_IMAGES = {"train": 60, "validation": 10, "calibration": 24}
HELD_REASON = "image AUROC fell from 0.981 to 0.942, by more than 0.005"
FAILURE = "none of 12 files is an image: notes.txt is text"
NO_STUDENT = "94 good images, fewer than train.min_images_for_student (100)"
TEACHER = TeacherCard("resnet18", "0123456789abcdef" * 4, random=True)


def write_fleet(
    folder: Path,
    kinds: Mapping[str, str] = KINDS,
    *,
    odd: Mapping[str, int] = {"plate": 3},
    image_size: int = 64,
) -> str:
    """Writes parts and a closed fleet, and returns its URI.

    Args:
        folder: of the parts and of the workspace.
        kinds: of each category how it ended: a status, or what its gate said of a new model.
        odd: numbers of images that were trained on and lie above the threshold.
        image_size: side of the parts, in pixels.
    """
    root = make_parts(folder / "parts", categories=1, train=4, size=image_size) / "plate"
    data = DataConfig(str(root.parent))
    fleet = Fleet(TrainConfig(storage.join(str(folder), "workspace"), "fleet-1", data))
    fleet.begin()
    for number, (category, kind) in enumerate(kinds.items()):
        rng = np.random.default_rng([3, number])
        fleet.end(category, _record(category, kind, rng))
        if kind in ("failed", "not_started"):
            continue
        images = sorted(root.glob("test/[!g]*/*.png"))
        scores = _scores(images, rng, odd.get(category, 0), image_size)
        files = {
            "history.parquet": schema.to_parquet(_history(rng)),
            "training_scores.parquet": schema.to_parquet(scores),
            "calibrations/1.json": checksummed_files.to_json(_calibration().to_json()),
            "model.json": checksummed_files.to_json(_card(category, fleet.config).to_json()),
        }
        for name, content in files.items():
            storage.write(storage.join(folder_of(fleet.uri, category), name), content)
    fleet.close("stopped" if "not_started" in kinds.values() else "done")
    return fleet.uri


def folder_of(fleet_uri: str, category: str) -> str:
    """Folder of the model of one of the fleet's categories."""
    return artefact.folder_of(fleet_uri.rsplit("/", 2)[0], category, VERSION)


def _record(category: str, kind: str, rng: np.random.Generator) -> dict[str, Any]:
    if kind == "failed":
        return {"status": kind, "attempts": 2, "error": FAILURE, "traceback": f"{category}-2.txt"}
    if kind == "not_started":
        reason = "the fleet was stopped before it was started: start the fleet again to go on"
        return {"status": kind, "attempts": 0, "reason": reason}
    trained = kind != "up_to_date"
    stages = {"read": 0.4, "decode": 1.5, "fit": rng.uniform(20, 90), "gate": 3.0}
    result = CategoryResult(
        category=category,
        status="trained" if trained else "up_to_date",
        version=VERSION,
        num_images=NUM_IMAGES,
        image_size=64,
        resize="stretch",
        model_bytes=int(rng.uniform(2e6, 9e6)),
        threshold=THRESHOLD,
        supported_false_call_rate=0.04,
        steps=600,
        gate=_gate(kind, rng),
        images_per_s=rng.uniform(60, 140) if trained else None,
        warnings=[
            "24 good images vouch for a false-call rate of 4.00%, not of 1.00%, which needs 99: "
            "the threshold is extrapolated from their scores"
        ],
        no_student=NO_STUDENT if category == "gear" else "",
        seconds=stages if trained else {},
    )
    return {**result.to_dict(), "attempts": int(trained), "cpus": 1.0, "gpus": 0.0}


def _gate(kind: str, rng: np.random.Generator) -> dict[str, Any]:
    value, labels = 0.942 if kind == "held" else rng.uniform(0.93, 0.99), rng.uniform() < 0.7
    record = {
        "state": {"held": "held", "first": "first"}.get(kind, "passed"),
        "reason": HELD_REASON if kind == "held" else f"the image AUROC is {value:.3f}",
        "by": "labels" if labels else "synthetic",
        "part": "val" if labels else "",
        "num_good": 40,
        "num_defective": 40,
        "image_auroc": _measure(value, 0.012),
        "champion": None,
        "difference": None,
        "margin": 0.005,
        "false_calls": None,
    }
    if kind == "first":
        return record
    before = 0.981 if kind == "held" else value - rng.uniform(-0.004, 0.01)
    champion = {"version": CHAMPION, "image_auroc": _measure(before, 0.01)}
    return record | {"champion": champion, "difference": _measure(value - before, 0.006)}


def _measure(value: float, width: float) -> dict[str, float]:
    return {"value": value, "low": value - width, "high": min(value + width, 1.0)}


def _history(rng: np.random.Generator) -> pa.Table:
    epochs = np.arange(60)
    loss = 0.9 * np.exp(-epochs / rng.uniform(5, 12)) + 0.04 + rng.uniform(0, 0.004, 60)
    validation = loss * 1.15 + 2e-4 * epochs
    columns = {"epoch": epochs, "step": 4 * epochs + 4, "loss": loss}
    return pa.table({**columns, "validation_loss": validation, "learning_rate": np.full(60, 1e-3)})


def _scores(
    images: list[Path], rng: np.random.Generator, num_odd: int, image_size: int
) -> pa.Table:
    """Good images up to the threshold, then the odd ones, the least first."""
    size = {"sha256": "0" * 64, "image_height": image_size, "image_width": image_size}
    rows: list[dict[str, Any]] = []
    for side in (side for side, count in NUM_IMAGES.items() for _ in range(count)):
        score = min(rng.gamma(9, 0.05 if side == "train" else 0.055), THRESHOLD)
        good = {"image_uri": f"file:///parts/{len(rows):04}.png", "side": side}
        rows.append(
            good
            | {"image_score": score, "is_anomalous": False, "is_suspect": False}
            | {"group": len(rows) // 3, "fold": len(rows) // 3 % 8}
            | size
        )
    for n in range(num_odd):
        odd: dict[str, Any] = {"image_uri": images[n % len(images)].as_uri(), "side": "train"}
        odd |= {"image_score": THRESHOLD + 0.2 * (n + 1), "is_anomalous": True, "is_suspect": True}
        odd |= {"group": 100 + n, "fold": 0}
        rows.append(odd | size | schema.encode_map(_map(rng), "float16"))
    return pa.Table.from_pylist(rows, schema=TRAINING_SCORES)


def _map(rng: np.random.Generator) -> NDArray[np.float32]:
    """A hot spot on quiet ground, float32 `[64, 64]`."""
    y, x = np.mgrid[:64, :64]
    distance = (y - rng.integers(16, 48)) ** 2 + (x - rng.integers(16, 48)) ** 2
    return np.asarray(0.2 + 2 * np.exp(-distance / 40), np.float32)


def _calibration() -> Calibration:
    return Calibration(
        1, THRESHOLD, 1.0, 0.01, 0.04, (0.4, 1.0), (0.5, 1.0), {}, "mrkd", "first", 2
    )


def _card(category: str, config: TrainConfig) -> ModelCard:
    return ModelCard(
        category, VERSION, config.model, config.train, TEACHER, {}, {}, {}, files={}, code={}
    )
