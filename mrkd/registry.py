"""Which versions a category has, and which one scores.

    models/<category>/<version>/model.json      there once a version is complete
    models/<category>/promotions/<n>.json       {version, calibration, by, at, why, gate}
    models/<category>/champion.json             copy of the newest promotion, for people

The newest promotion is the champion. The copy is written after it and may lag behind when a
process dies between the two, so nothing here reads it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from mrkd import storage
from mrkd.config import FitConfig, ModelConfig
from mrkd.errors import ArtefactError

log = logging.getLogger(__name__)

# Fields that name what is in the hash by another way (the resolved values, the teacher's digest),
# or that say where and how fast a training runs, not what it computes.
_NOT_IN_VERSION = {
    "model": ("preset", "weights", "weights_sha256"),
    "train": ("device", "precision", "cache_bytes"),
}


@dataclass(frozen=True)
class Promotion:
    """One entry of a category's promotions; never changed.

    Args:
        number: counts up from 1.
        version: the model that scores from then on.
        calibration: the number of the calibration by which it decides.
        by: who promoted it.
        at: when, UTC, ISO 8601.
        why: `first`, `retrained`, or a person's words.
        gate: what a gate measured; none yet.
    """

    number: int
    version: str
    calibration: int
    by: str
    at: str
    why: str
    gate: Mapping[str, Any] | None = None


def version_of(
    model: ModelConfig,
    train: FitConfig,
    *,
    data_fingerprint: str,
    teacher_digest: str,
    model_version: int,
) -> str:
    """The name of the model that these inputs make: 16 hex digits, the same on every machine.

    Args:
        model: network's config; its preset counts by its values alone.
        train: training's config, without device, precision and cache.
        data_fingerprint: of the good images in use; excluding an image changes it.
        teacher_digest: of the teacher's weights.
        model_version: `model.MODEL_VERSION` of the code.
    """
    sections: dict[str, dict[str, Any]] = {"model": model.to_dict(), "train": train.to_dict()}
    for section, names in _NOT_IN_VERSION.items():
        for name in names:
            del sections[section][name]
    inputs = {
        **sections,
        "data": data_fingerprint,
        "teacher": teacher_digest,
        "model_version": model_version,
    }
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions(workspace: str, category: str) -> list[str]:
    """The complete versions of a category, sorted by name."""
    folder = storage.join(workspace, "models", category)
    names = [name for name in storage.list_names(folder) if name != "promotions"]
    return sorted(name for name in names if exists(workspace, category, name))


def exists(workspace: str, category: str, version: str) -> bool:
    """Whether a version is complete."""
    uri = storage.join(workspace, "models", category, version, "model.json")
    return storage.stat(uri) is not None


def next_version(workspace: str, category: str, version: str) -> str:
    """The version's own name if it is free, else the first free of `<version>-2`, `-3`, ..."""
    name, number = version, 1
    while exists(workspace, category, name):
        number += 1
        name = f"{version}-{number}"
    return name


def champion(workspace: str, category: str) -> Promotion | None:
    """The newest promotion, None where the category has no model yet.

    Raises:
        ArtefactError: it cannot be read as one.
    """
    numbers = _numbers(workspace, category)
    return _read(workspace, category, numbers[-1]) if numbers else None


def promotions(workspace: str, category: str) -> list[Promotion]:
    """All promotions of a category, the newest last; errors as `champion`."""
    return [_read(workspace, category, number) for number in _numbers(workspace, category)]


def promote(
    workspace: str,
    category: str,
    version: str,
    *,
    calibration: int = 1,
    by: str,
    why: str,
    gate: Mapping[str, Any] | None = None,
) -> Promotion:
    """Makes a version the champion.

    Two at once cannot both win: the next number is written on the condition that it is free, and
    the time in it keeps the two apart.

    Raises:
        ArtefactError: the version is not complete, or another promotion came first.
    """
    if not exists(workspace, category, version):
        raise ArtefactError(
            f"category {category!r} has no complete version {version!r} in {workspace}: it has "
            f"{', '.join(versions(workspace, category)) or 'none; train it'}"
        )
    numbers = _numbers(workspace, category)
    promotion = Promotion(
        number=numbers[-1] + 1 if numbers else 1,
        version=version,
        calibration=calibration,
        by=by,
        at=datetime.now(UTC).isoformat(timespec="microseconds"),
        why=why,
        gate=gate,
    )
    content = asdict(promotion)
    if not storage.write_json(_uri(workspace, category, promotion.number), content, if_absent=True):
        found = _read(workspace, category, promotion.number)
        raise ArtefactError(
            f"category {category!r}: {found.by} promoted {found.version} ({found.why}) at the same "
            f"time as {version}, which is not promoted: compare the two, then try again"
        )
    storage.write_json(storage.join(workspace, "models", category, "champion.json"), content)
    log.info("promoted category=%s version=%s why=%s", category, version, why)
    return promotion


def _uri(workspace: str, category: str, number: int) -> str:
    return storage.join(workspace, "models", category, "promotions", f"{number}.json")


def _numbers(workspace: str, category: str) -> list[int]:
    folder = storage.join(workspace, "models", category, "promotions")
    stems = [
        entry.uri.rpartition("/")[2].removesuffix(".json")
        for entry in storage.list_files(folder, suffixes=(".json",))
    ]
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def _read(workspace: str, category: str, number: int) -> Promotion:
    uri = _uri(workspace, category, number)
    try:
        return Promotion(**storage.read_json(uri))
    except TypeError as error:
        raise ArtefactError(
            f"{uri} is no promotion: restore the file, or delete it to fall back to the one before"
        ) from error
